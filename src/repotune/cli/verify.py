"""`repotune verify RUN`."""

from __future__ import annotations

from dataclasses import asdict

import click

from repotune.cli.options import json_option
from repotune.cli.progress import show_progress
from repotune.cli.show import print_json
from repotune.records import Verification


@click.command(
    "verify",
    help="Check every file of RUN by its digest, load its adapter, compute one held-out figure "
    "again, and say what can be saved if something is wrong. Changes nothing; the exit code is 0 "
    "only if all is well. RUN is a run's folder, or its name.",
    short_help="Check a run's files, and that its adapter does what it did.",
)
@click.argument("run")
@json_option
def command(run: str, as_json: bool) -> int:
    """Verify and show what was found."""
    from repotune.verify import verify

    with show_progress() as emit:
        found = verify(run, emit=emit)
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(verification_text(found))
    return 0 if found.ok else 1


def verification_text(found: Verification) -> str:
    """A line for each finding, then the verdict and what to do."""
    lines = [
        f"{'ok   ' if one.ok else 'WRONG'}  {one.what}: {one.detail}" for one in found.findings
    ]
    wrong = sum(not one.ok for one in found.findings)
    lines.append("All is well." if found.ok else f"{wrong} of {len(found.findings)} are wrong.")
    return "\n".join([*lines, *found.advice])
