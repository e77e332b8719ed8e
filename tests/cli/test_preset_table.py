"""The table of presets is what the planner says today."""

from pathlib import Path

import repotune.tables
from repotune.cli.preset_table import preset_table


def test_the_table_is_not_stale():
    path = Path(repotune.tables.__file__).with_name("presets.toml")
    assert path.read_text(encoding="utf-8") == preset_table(), "run `make docs`"
