"""The table of settings for CodeLlama-7B, one row for each GPU that can do it."""

from __future__ import annotations

from functools import cache

from repotune.records import Preset
from repotune.tables.toml_file import read_table


@cache
def presets() -> tuple[Preset, ...]:
    """All presets, in the order of the table of GPUs."""
    return tuple(Preset(**entry) for entry in read_table("presets.toml")["preset"])


def find_preset(gpu: str) -> Preset | None:
    """The preset of the Gpu with exactly this name; None where CodeLlama-7B does not fit."""
    return next((preset for preset in presets() if preset.gpu == gpu), None)
