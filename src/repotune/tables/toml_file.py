"""Reading a table that lies beside this file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


def read_table(name: str) -> dict[str, Any]:
    """The TOML file ``name`` of this package. The files are ours, and tests check each row."""
    return dict(tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8")))
