"""`repotune plan PATH`: what a run would need, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import click

from repotune.cli.notebook import DEFAULT_GPU, Cloud, Lang, write_notebook
from repotune.cli.options import json_option
from repotune.cli.plan_text import compare_table, print_plan
from repotune.cli.progress import show_progress
from repotune.cli.show import print_json
from repotune.config import FineTuningConfig
from repotune.errors import UsageError
from repotune.records import Plan

TOKENS_PER_FILE: Final = 3_900.0
"""Mean of 12,933 files of real code."""
UNKNOWN: Final = {"low": None, "expected": None, "high": None}
TIMED: Final = ("hours", "hours_per_epoch", "tokens_per_second", "electricity_kwh", "electricity")
MOST_FILES: Final = 1_000_000_000


class Positive(click.ParamType[float]):
    """A number above 0 and up to ``most``; no infinity, nothing that is no number."""

    name = "number"

    def __init__(self, most: float) -> None:
        self._most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number. Fails with what would be one."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= self._most:  # false for nan, too
            self.fail(f"{value} is not a number above 0, up to {self._most:,.0f}.", param, ctx)
        return number


class Count(click.ParamType[int]):
    """A whole number of at least 1."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Fails with what would be one."""
        try:
            number = int(value)
        except ValueError:
            number = 0
        if not 1 <= number <= MOST_FILES:
            self.fail(f"{value} is not a whole number from 1 to {MOST_FILES:,}.", param, ctx)
        return number


@click.command(
    "plan",
    help="Say what tuning on the code in PATH would need, how long it would take and what it would "
    "cost, on this machine or on the GPU that --gpu names. Nothing is downloaded or loaded.\n\n"
    "Without --config, settings are those of `repotune tune`: the GPU's preset, or the planner's "
    "choice where the model does not fit with it.",
    short_help="Say what a run would need, take and cost.",
)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--gpu", metavar="NAME", help='A GPU, such as "RTX 3060".  [default: this machine]')
@click.option(
    "--model", metavar="ID",
    help="Base model: a hub id of the table, a folder, or 'starter'.  [default: as `tune`]",
)  # fmt: skip
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
    help="TOML file with settings, as for `tune`.",
)  # fmt: skip
@click.option("--files", type=Count(), help="Plan for so many files, without a PATH.")
@click.option(
    "--tokens-per-file", type=Positive(1e8),
    help=f"Tokens of a file, with --files.  [default: {TOKENS_PER_FILE:,.0f}]",
)  # fmt: skip
@click.option(
    "--price-per-kwh", type=Positive(1e6), help="Price of electricity.  [default: 0.17, in USD]"
)
@click.option("--compare", is_flag=True, help="Show a table over all known GPUs, too.")
@click.option("--all-models", is_flag=True, help="Show a table over all known models, too.")
@click.option(
    "--notebook", "notebook_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Also write a notebook (.ipynb) that carries the plan out on a cloud, on the T4 that it "
    "lends for free unless --gpu names another.",
)  # fmt: skip
@click.option(
    "--cloud", type=click.Choice(["colab", "kaggle"]),
    help="Where the notebook runs.  [default: colab]",
)  # fmt: skip
@click.option(
    "--lang", type=click.Choice(["en", "ko"]), help="Language of the notebook.  [default: en]"
)
@json_option
def command(
    path: Path | None, gpu: str | None, model: str | None, config_file: Path | None,
    files: int | None, tokens_per_file: float | None, price_per_kwh: float | None,
    compare: bool, all_models: bool, notebook_file: Path | None, cloud: Cloud | None,
    lang: Lang | None, as_json: bool,
) -> int:  # fmt: skip
    """Check the arguments, plan, and show; 0 whatever the verdict."""
    code = _code(path, files, tokens_per_file)
    if notebook_file is None and (cloud or lang):
        raise UsageError("--cloud and --lang are for --notebook FILE: name the notebook's file.")
    if compare and all_models:
        raise UsageError("--compare and --all-models are two tables: ask for one at a time.")
    across: Literal["gpus", "models"] | None = None
    if compare or all_models:
        across = "gpus" if compare else "models"
    config = None if config_file is None else FineTuningConfig.from_toml(config_file)

    from repotune import preflight

    with show_progress() as emit:
        asked, *others = preflight.plan(
            code,
            config,
            model=model,
            gpu=DEFAULT_GPU if notebook_file and gpu is None else gpu,
            price_per_kwh=price_per_kwh or preflight.PRICE_PER_KWH,
            across=across,
            compiler=os.environ.get("CC"),
            emit=emit,
        )
    if notebook_file is not None:
        write_notebook(notebook_file, asked, cloud=cloud or "colab", lang=lang or "en")
    if as_json:
        extra: dict[str, Any] = {"compared": _rows(others)} if others else {}
        if notebook_file is not None:
            extra["notebook"] = str(notebook_file)
        print_json({**plan_json(asked), **extra})
    else:
        print_plan(asked)
        if notebook_file is not None:
            click.echo(f"Notebook: {notebook_file}")
        if others:
            compare_table(others, by="device" if compare else "model")
    return 0


def _code(
    path: Path | None, files: int | None, tokens_per_file: float | None
) -> Path | tuple[int, float]:
    if (path is None) == (files is None):
        raise UsageError(
            "Name the folder to plan for, or say how much code it is: "
            "`repotune plan PATH` or `repotune plan --files N`."
        )
    if path is not None:
        if tokens_per_file is not None:
            raise UsageError("--tokens-per-file goes with --files: the tokens of PATH are counted.")
        return path
    assert files is not None
    return files, tokens_per_file or TOKENS_PER_FILE


def plan_json(plan: Plan) -> dict[str, Any]:
    """All of a plan; each quantity is {low, expected, high}.

    ``disk_gib`` and ``cost`` are the sums, with their items beside them; ``cost`` is what the
    device's electricity costs, and each cloud offer has a cost of its own. What takes time is null
    where no settings fit.
    """
    values = _figures(plan)
    disk = values.pop("disk_gib")
    electricity = values.pop("electricity") or UNKNOWN
    return {
        **values,
        "disk_gib": {**disk.pop("total"), "items": disk},
        "cost": {
            **electricity,
            "electricity_kwh": values.pop("electricity_kwh"),
            "offers": [_offer(one) for one in values.pop("offers")],
        },
    }


def _offer(values: dict[str, Any]) -> dict[str, Any]:
    if values["verdict"] != "does_not_fit":
        return values
    return {**values, "hours": UNKNOWN, "money": UNKNOWN, "sessions": None, "weeks": None}


def _figures(plan: Plan) -> dict[str, Any]:
    values = asdict(plan)
    if plan.steps:
        return values
    return {**values, **dict.fromkeys(TIMED, UNKNOWN)}


def _rows(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Of each compared plan what a table shows."""
    wanted = ("model", "device", "verdict", "peak_vram_gib", "hours", "electricity_kwh")
    settings = ("batch_size", "gradient_accumulation_steps", "max_seq_length", "use_4bit")
    return [
        {
            **{name: value for name, value in _figures(plan).items() if name in wanted},
            "config": {name: plan.config[name] for name in settings},
        }
        for plan in plans
    ]
