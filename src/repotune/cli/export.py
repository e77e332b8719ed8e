"""`repotune export RUN --to FORMAT -o FOLDER`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from repotune.cli.options import json_option, step_option
from repotune.cli.progress import show_progress
from repotune.cli.show import handover_text, print_json
from repotune.records import ExportFormat, Quantisation


@click.command(
    "export",
    help="Write RUN's tuned model into a new folder for another program, and let that program "
    "read it: what it computes must be what the training computed. RUN is a run's folder, or its "
    "name.\n\n"
    "peft: the adapter. merged: base and adapter in one, for transformers. gguf: for llama.cpp. "
    "ollama: the same with a Modelfile. vllm: merged, with the command that serves it.",
    short_help="Write the tuned model for another program, and prove it there.",
)
@click.argument("run")
@click.option("--to", type=click.Choice(get_args(ExportFormat)), required=True, help="For whom.")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True,
    help="A new or an empty folder.",
)  # fmt: skip
@click.option(
    "--quantisation", type=click.Choice(get_args(Quantisation)),
    help="How gguf and ollama store the weights.  [default: q8_0]",
)  # fmt: skip
@step_option
@json_option
def command(
    run: str, to: ExportFormat, folder: Path, quantisation: Quantisation | None, step: int | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Export and show what was written and how it was proved."""
    from repotune import handover

    with show_progress() as emit:
        done = handover.export(run, folder, to=to, quantisation=quantisation, step=step, emit=emit)
    if as_json:
        print_json({"run": run, **asdict(done)})
    else:
        click.echo(handover_text(done))
    return 0
