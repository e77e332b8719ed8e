"""Whether Triton finds what it needs, as far as that can be told without a GPU and its seconds.

Triton translates its kernels by itself, and what launches them by a C compiler that it looks for on
the first use (``triton/runtime/build.py``); on Windows it brings one along.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Final

COMPILERS: Final = ("gcc", "clang")


def what_is_missing() -> str:
    """What keeps Triton from working here, as a clause; empty if nothing is known to."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if sys.platform == "win32":
        return ""
    if not any(shutil.which(name) for name in COMPILERS):
        return f"Triton does not find a C compiler ({' or '.join(COMPILERS)})"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.exists() else f"Triton does not find Python's headers ({header})"
