"""`repotune requirements`: the page of requirements, regenerated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repotune.cli.options import json_option

if TYPE_CHECKING:
    from repotune.preflight import Form
    from repotune.requirements import Lang


@click.command(
    "requirements",
    help="Write the page of requirements: what tuning needs, on which GPU, for how long, at what "
    "cost. Every figure is computed, and where the hand-written page that it replaces says "
    "something else, both stand there with the reason.",
    short_help="Write the page of requirements: GPUs, memory, time, cloud.",
)
@click.option(
    "--lang", type=click.Choice(["en", "ko"]), default="en", show_default=True,
    help="Language of the page.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(["md", "html", "json"]), default="md", show_default=True,
    help="Markdown, one HTML file without a network, or all figures as JSON.",
)  # fmt: skip
@click.option(
    "--model", metavar="ID",
    help="Base model: a hub id of the table, a folder, or 'starter'.  "
    "[default: codellama/CodeLlama-7b-hf]",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write into FILE, in UTF-8.  [default: standard output]",
)  # fmt: skip
@json_option
def command(lang: Lang, form: Form, model: str | None, output: Path | None, as_json: bool) -> int:
    """Compute and write."""
    from repotune import preflight

    text = preflight.requirements(model=model, lang=lang, form="json" if as_json else form)
    if output is not None:
        output.write_text(text, encoding="utf-8", newline="\n")
        return 0
    # Into a file or a pipe in UTF-8, whatever the console's code page: the page says that it is.
    click.echo(text if sys.stdout.isatty() else text.encode("utf-8"), nl=False)
    return 0
