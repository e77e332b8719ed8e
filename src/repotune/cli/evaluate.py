"""`repotune evaluate RUN`."""

from __future__ import annotations

import click

from repotune.cli.options import json_option, step_option
from repotune.cli.progress import show_progress
from repotune.cli.show import evaluation_json, evaluation_text, print_json


@click.command(
    "evaluate",
    help="Compare base and tuned on RUN's held-out files. RUN is a run's folder, or its name. What "
    "comes out is kept in the run for its report; with --step it is only shown.",
    short_help="Compare base and tuned on a run's held-out files.",
)
@click.argument("run")
@click.option(
    "--eval-max-tokens", type=click.IntRange(min=1),
    help="Held-out tokens to read at most.  [default: as the run was configured]",
)  # fmt: skip
@click.option(
    "--tasks/--no-tasks", default=True,
    help="Also let both solve HumanEval, as a test of what was forgotten: all of it on a GPU, a "
    "part on a CPU. What they write runs in a sandbox (Linux).  [default: yes]",
)  # fmt: skip
@step_option
@json_option
def command(
    run: str, eval_max_tokens: int | None, tasks: bool, step: int | None, as_json: bool
) -> int:
    """Evaluate and show the figures."""
    from repotune import pipeline

    with show_progress() as emit:
        evaluation = pipeline.evaluate(
            run, step=step, eval_max_tokens=eval_max_tokens, tasks=tasks, emit=emit
        )
    if as_json:
        print_json({"run": run, **evaluation_json(evaluation)})
    else:
        click.echo(evaluation_text(evaluation))
    return 0
