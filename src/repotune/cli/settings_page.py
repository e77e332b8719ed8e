"""Writes the page of settings from FineTuningConfig; `make docs` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

from repotune.cli.options import flag_name
from repotune.config import FieldFacts, field_facts

HEAD = """\
# Settings

Fields of `FineTuningConfig` in Python, keys of a TOML file (`--config FILE`), and flags of
`repotune tune`. Flags go before the file, the file before the defaults. This page is written
by `make docs`.

| field | flag | default | allowed | |
|---|---|---|---|---|
"""


def settings_page() -> str:
    """The page as Markdown: a row for each field."""
    return HEAD + "".join(_row(field) for field in field_facts())


def _row(field: FieldFacts) -> str:
    flag = flag_name(field.name)
    flags = f"`{flag}`"
    if field.kind == "boolean":
        flags += f" `--no-{flag.removeprefix('--')}`"
    if field.name == "output_dir":
        flags = f"`-o` {flags}"
    match field.default:
        case None:
            default = "none"
        case list(items):
            default = "all" if items == list(field.choices) else ", ".join(items)
        case value:
            default = str(value).lower()
    description = field.description.replace("<", "&lt;")
    return f"| `{field.name}` | {flags} | {default} | {field.allowed} | {description} |\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_page(), encoding="utf-8", newline="\n")
