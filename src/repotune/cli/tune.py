"""`repotune tune PATH` and `repotune tune --resume RUN`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from repotune.cli.options import config_options, flag_name, given, json_option
from repotune.cli.progress import show_progress
from repotune.cli.show import print_json, resume_command, tune_json, tune_text
from repotune.config import FineTuningConfig
from repotune.errors import UsageError
from repotune.runs import find_run

CHANGEABLE = ("batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
"""Settings that a resumed run may change: of the first two, their product stays."""


@click.command(
    "tune",
    help="Tune a model on the source code in PATH, or go on with a run.\n\n"
    "Settings are taken from the flags, then from the --config file, then from the defaults. "
    "Without --config and without --batch-size, --gradient-accumulation-steps, --max-seq-length "
    "and --use-4bit, these four are chosen for the GPU that is found, as `repotune plan` shows.",
    short_help="Tune a model on the code in a folder, or go on with a run.",
)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--resume", metavar="RUN", help="Go on with a run: its folder, or its name.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
    help="TOML file whose keys are the names below, with underscores.",
)  # fmt: skip
@config_options
@json_option
def command(
    path: Path | None, resume: str | None, config_file: Path | None, as_json: bool, **flags: Any
) -> int:
    """Check the arguments, tune, and show the result; 1 if it was interrupted."""
    overrides = given(flags)
    config = _checked(path, resume, config_file, overrides)

    _tell_cublas(config, resume)
    from repotune import pipeline
    from repotune.forecast import SIZE_FIELDS

    with show_progress() as emit:
        if resume is not None:
            result = pipeline.resume(resume, **overrides, emit=emit)
        else:
            assert path is not None
            assert config is not None
            says_nothing = config_file is None and not overrides.keys() & set(SIZE_FIELDS)
            start = pipeline.tune_suited if says_nothing else pipeline.tune
            result = start(path, config, emit=emit)
    if as_json:
        print_json(tune_json(result))
    else:
        click.echo(tune_text(result))
    if result.interrupted:
        click.echo(f"Interrupted; go on with: {resume_command(result.run)}", err=True)
    return 1 if result.interrupted else 0


def _tell_cublas(config: FineTuningConfig | None, resume: str | None) -> None:
    """Before PyTorch is imported, since it looks once."""
    from repotune.machine import CUBLAS, CUBLAS_SETTING

    if config is not None:
        wanted = config.deterministic
    else:
        assert resume is not None
        wanted = find_run(resume, Path.cwd()).state().config.get("deterministic", False)
    if wanted:
        os.environ[CUBLAS] = CUBLAS_SETTING


def _checked(
    path: Path | None, resume: str | None, config_file: Path | None, overrides: dict[str, Any]
) -> FineTuningConfig | None:
    """The configuration, or None for a resumed run, which has its own."""
    if resume is None:
        if path is None:
            raise UsageError("Name the folder to tune on: `repotune tune PATH`.")
        if config_file is not None:
            return FineTuningConfig.from_toml(config_file, overrides)
        return FineTuningConfig(**overrides)
    surplus = [flag_name(name) for name in overrides if name not in CHANGEABLE]
    if config_file is not None:
        surplus.insert(0, "--config")
    if path is not None:
        surplus.insert(0, str(path))
    if surplus:
        raise UsageError(
            "--resume goes on with the run's own folder and settings, of which only --batch-size, "
            "--gradient-accumulation-steps and --gradient-checkpointing may change: "
            f"leave out {', '.join(surplus)}, or start a new run without --resume."
        )
    return None
