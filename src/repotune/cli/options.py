"""The flags of `tune`, generated from FineTuningConfig's fields, and the options all share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from repotune.config import FieldFacts, field_facts

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, also for an error."
)

step_option = click.option(
    "--step", type=click.IntRange(min=1), metavar="N",
    help="Take the checkpoint of step N, as `repotune runs` lists them, in the adapter's place.",
)  # fmt: skip


def config_options(command: AnyCommand) -> AnyCommand:
    """Add a flag for each field of FineTuningConfig; a flag that was not given is None."""
    for field in reversed(field_facts()):
        command = _option(field)(command)
    return command


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that the user gave."""
    return {name: value for name, value in flags.items() if value is not None}


def flag_name(field: str) -> str:
    """``max_steps`` -> ``--max-steps``."""
    return "--" + field.replace("_", "-")


def _option(field: FieldFacts) -> Callable[[AnyCommand], AnyCommand]:
    flag = flag_name(field.name)
    names = [flag]
    if field.name == "output_dir":
        names = ["-o", flag]
    elif field.kind == "boolean":
        names = [f"{flag}/--no-{flag.removeprefix('--')}"]
    return click.option(
        *names,
        field.name,
        type=_type(field),
        callback=_split if field.kind == "list" else None,
        metavar="A,B,..." if field.kind == "list" else None,
        default=None,
        help=field.description + _default(field),
    )


def _type(field: FieldFacts) -> Any:
    if field.kind == "choice":
        return click.Choice(field.choices)
    types: dict[str, Any] = {
        "boolean": bool,
        "integer": int,
        "number": float,
        "text": str,
        "path": click.Path(),  # as text: an empty path would become the current folder
        "list": str,
    }
    return types[field.kind]


def _split(_ctx: click.Context, _option: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [item.strip() for item in value.split(",")]


def _default(field: FieldFacts) -> str:
    match field.default:
        case None:
            return ""
        case bool(on):
            shown = "yes" if on else "no"
        case list(items):
            shown = ", ".join(items)
        case value:
            shown = str(value)
    return f"  [default: {shown}]"
