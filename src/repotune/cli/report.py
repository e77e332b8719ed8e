"""`repotune report RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from repotune.cli.options import json_option
from repotune.cli.show import print_json

if TYPE_CHECKING:
    from repotune.report import Lang


@click.command(
    "report",
    help="Write what RUN came to into one HTML file: the verdict first, then figures, completions, "
    "curves, memory, the plan against what happened, the corpus, and how to reproduce it. RUN is a "
    "run's folder, or its name. The file holds code of the held-out files.",
    short_help="Write a run's report as one HTML file.",
)
@click.argument("run")
@click.option(
    "--lang", type=click.Choice(["en", "ko"]), default="en", show_default=True,
    help="Language of the report.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Write into FILE.  [default: report.html in the run's folder]",
)  # fmt: skip
@json_option
def command(run: str, lang: Lang, output: Path | None, as_json: bool) -> int:
    """Write the file and say where it is."""
    from repotune import reporting

    path = reporting.report(run, lang=lang, output=output)
    if as_json:
        print_json({"run": run, "report": str(path)})
    else:
        click.echo(f"Report     {path}")
    return 0
