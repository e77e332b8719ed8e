"""`repotune runs [FOLDER]`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from repotune.cli.options import json_option
from repotune.cli.show import print_json, runs_text
from repotune.runs import RUNS_FOLDER


@click.command(
    "runs",
    help=f"List the runs in FOLDER, oldest first.  [default: {RUNS_FOLDER}]",
    short_help="List the runs in a folder.",
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@json_option
def command(folder: Path | None, as_json: bool) -> int:
    """List the runs."""
    from repotune import pipeline

    default = Path.cwd() / RUNS_FOLDER
    # Before the first run there is no default folder, and that is no error.
    infos = pipeline.runs(folder or default) if folder or default.exists() else []
    if as_json:
        print_json({"runs": [asdict(info) for info in infos]})
    else:
        click.echo(runs_text(infos, folder or default))
    return 0
