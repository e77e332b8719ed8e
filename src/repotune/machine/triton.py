"""Whether Triton finds what it needs, as far as that can be told without a GPU and its seconds.

Triton translates its kernels by itself, and what launches them by a C compiler that it looks for on
the first use (``triton/runtime/build.py``); on Windows it brings one along.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

COMPILERS: Final = ("gcc", "clang")


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonFault:
    """What keeps Triton from working; ``texts`` has the clause."""

    key: Literal["triton_uninstalled", "triton_no_compiler", "triton_no_headers", "triton_fails"]
    detail: str = ""
    """Names, or what Triton said."""


def what_is_missing(compiler: str | None = None) -> TritonFault | None:
    """What keeps Triton from working here; None if nothing is known to.

    ``compiler``: what the environment's CC says, which Triton takes instead of looking for one.
    """
    if find_spec("triton") is None:
        return TritonFault(key="triton_uninstalled")
    if sys.platform == "win32":
        return None
    wanted = COMPILERS if compiler is None else (compiler,)
    if not any(shutil.which(name) for name in wanted):
        said = " or ".join(COMPILERS) if compiler is None else f"CC={compiler}"
        return TritonFault(key="triton_no_compiler", detail=said)
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return TritonFault(key="triton_no_headers", detail=str(header))
    return None
