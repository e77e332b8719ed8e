"""`repotune complete RUN FILE:LINE[:COLUMN]`."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import click

from repotune.cli.options import json_option, step_option
from repotune.cli.progress import show_progress
from repotune.cli.show import completion_text, print_json
from repotune.errors import UsageError

# The path is the shortest that leaves one or two numbers, so C:\x.py:12 keeps its drive.
_LOCATION = re.compile(r"(?P<path>.+?):(?P<line>[0-9]{1,9})(?::(?P<column>[0-9]{1,9}))?")


def parse_location(text: str) -> tuple[Path, int, int | None]:
    """``FILE:LINE[:COLUMN]``, both counted from 1. Raises UsageError if it is not that."""
    match = _LOCATION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is not a place in a file: give FILE:LINE or FILE:LINE:COLUMN, "
            "for instance src/app.py:12."
        )
    line = int(match["line"])
    column = int(match["column"]) if match["column"] else None
    if line == 0 or column == 0:
        raise UsageError(f"{text!r} has a 0, but lines and columns are counted from 1.")
    return Path(match["path"]), line, column


@click.command(
    "complete",
    help="Complete the code at FILE:LINE[:COLUMN], by the base model and by the tuned one.\n\n"
    "RUN is a run's folder, or its name. Lines and columns are counted from 1; the cursor "
    "stands before the column, or at the end of the line without one. The models see as much "
    "code around it as an editor sends.",
    short_help="Complete the code at one cursor, base against tuned.",
)
@click.argument("run")
@click.argument("location", metavar="FILE:LINE[:COLUMN]")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=48, show_default=True,
    help="Tokens to write at most.",
)  # fmt: skip
@click.option(
    "--suffix", metavar="TEXT",
    help="The code after the cursor, in the place of what the file has there.",
)  # fmt: skip
@step_option
@json_option
def command(
    run: str, location: str, max_new_tokens: int, suffix: str | None, step: int | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Complete and show both texts."""
    path, line, column = parse_location(location)

    from repotune import pipeline

    with show_progress() as emit:
        completion = pipeline.complete(
            run,
            pipeline.Location(path, line, column),
            suffix=suffix,
            step=step,
            max_new_tokens=max_new_tokens,
            emit=emit,
        )
    if as_json:
        print_json({"run": run, **asdict(completion)})
    else:
        click.echo(completion_text(completion))
    return 0
