"""`repotune doctor`: is this machine fit for it?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repotune.cli.options import json_option
from repotune.cli.show import print_json
from repotune.records import Check, Diagnosis, Finding

if TYPE_CHECKING:
    from repotune.machine.texts import Lang

WIDTH = 100
STYLES: Mapping[Finding, str] = {
    "ok": "green",
    "tight": "yellow",
    "missing": "bold red",
    "note": "",
}


@click.command(
    "doctor",
    help="Say whether this machine is fit for it, and what to mend.\n\n"
    "Each line says what was found, what is needed and what the requirements page asks for; what "
    "fails has one command that mends it on this system. With a GPU, one layer is really trained "
    "in 4 bits. The exit code is 0 only when `repotune tune PATH` would start with its defaults.",
    short_help="Say whether this machine is fit for it, and what to mend.",
)
@click.option(
    "--lang", type=click.Choice(["en", "ko"]), default="en", show_default=True,
    help="Language of the findings.",
)  # fmt: skip
@json_option
def command(lang: Lang, as_json: bool) -> int:
    """Examine the machine and show the findings; 1 if the main job would not start."""
    from repotune import preflight

    diagnosis = preflight.doctor(
        models=model_cache(os.environ), lang=lang, compiler=os.environ.get("CC")
    )
    if as_json:
        print_json(asdict(diagnosis))
    else:
        _show(diagnosis, lang)
    return 0 if diagnosis.starts else 1


def model_cache(environment: Mapping[str, str]) -> Path:
    """Where the hub's library puts models, by the variables that it documents."""
    if "HF_HUB_CACHE" in environment:
        return Path(environment["HF_HUB_CACHE"]).expanduser()
    if "HF_HOME" in environment:
        return Path(environment["HF_HOME"]).expanduser() / "hub"
    caches = Path(environment.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return caches / "huggingface" / "hub"


def _show(diagnosis: Diagnosis, lang: Lang) -> None:
    """The table, then a paragraph for each line that has something to say."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from repotune.machine.texts import say

    console = Console(highlight=False)
    if console.width > WIDTH or not console.is_terminal:
        console.width = WIDTH
    table = Table(box=None, pad_edge=False)
    for column, width in (("check", 14), ("found", 34), ("needed", 12), ("page", 24)):
        table.add_column(say(lang, f"col_{column}"), max_width=width, overflow="fold")
    table.add_column(say(lang, "col_finding"), no_wrap=True)
    for check in diagnosis.checks:
        page = " / ".join(one or "–" for one in check.page) if any(check.page) else ""
        cells = [Text(text) for text in (check.label, check.value, check.needed, page)]
        table.add_row(*cells, Text(say(lang, check.finding), style=STYLES[check.finding]))
    console.print(table)
    console.print()
    for check in diagnosis.checks:
        if check.reason:
            click.echo(finding_text(check, say(lang, check.finding)))
    click.echo(diagnosis.summary)


def finding_text(check: Check, word: str) -> str:
    """One line of words, and the command below it, whole, so that it can be pasted."""
    line = f"{word}: {check.label}: {check.reason}"
    return f"{line}\n    {check.fix}" if check.fix else line
