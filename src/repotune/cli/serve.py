"""`repotune serve RUN`."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from repotune.cli.options import json_option, step_option
from repotune.cli.progress import show_progress
from repotune.cli.show import print_json, served_text
from repotune.errors import UsageError
from repotune.records import Engine, Quantisation


@click.command(
    "serve",
    help="Serve RUN's tuned model to editors, on this computer only, until Ctrl-C. RUN is a run's "
    "folder, or its name.\n\n"
    "OpenAI's /v1/completions (with suffix), /v1/chat/completions and /v1/models, and llama.cpp's "
    "/infill. The first time the model is merged and kept in the run's folder; then one real "
    "request is sent, and its answer shown with the settings for Continue, llama.vscode and "
    "Neovim.",
    short_help="Serve the tuned model to editors on this computer.",
)
@click.argument("run")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8012, show_default=True,
    help="On 127.0.0.1.",
)  # fmt: skip
@click.option("--ab", is_flag=True, help="Serve two models: tuned and base.")
@click.option("--base", is_flag=True, help="Serve the base model in the tuned one's place.")
@step_option
@click.option(
    "--token", envvar="REPOTUNE_TOKEN", show_envvar=True,
    help="What clients must send; a random one by default. Give one to keep editors' settings "
    "from start to start.",
)  # fmt: skip
@click.option(
    "--write-config", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Write the settings for editors into FOLDER too.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(get_args(Engine)), default="llama.cpp", show_default=True,
    help="Who computes. vllm has to be on PATH.",
)  # fmt: skip
@click.option(
    "--quantisation", type=click.Choice(get_args(Quantisation)),
    help="How llama.cpp's weights are stored.  [default: q8_0]",
)  # fmt: skip
@json_option
def command(
    run: str, port: int, ab: bool, base: bool, step: int | None, token: str | None,
    write_config: Path | None, engine: Engine, quantisation: Quantisation | None, as_json: bool,
) -> int:  # fmt: skip
    """Serve until Ctrl-C."""
    if ab and base:
        raise UsageError("--ab serves both models and --base only one: give one of them.")

    from repotune import serve

    # A service manager ends a program by SIGTERM: the same as Ctrl-C here.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            with show_progress() as emit:  # a bar would be drawn over what is printed below
                running = stack.enter_context(
                    serve.serve(
                        run, which="both" if ab else "base" if base else "tuned", step=step,
                        port=port, token=token, engine=engine, quantisation=quantisation,
                        write_config=write_config, emit=emit,
                    )
                )  # fmt: skip
            try:
                if as_json:
                    print_json({"run": run, **asdict(running.served)})
                else:
                    click.echo(served_text(running.served))
                while True:
                    running.wait()
            except KeyboardInterrupt:
                click.echo("Stopped.", err=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
