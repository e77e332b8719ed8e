"""Who makes Q4_K_M: llama.cpp's function in a package, or the user's own ``llama-quantize``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from repotune.errors import ExportError
from repotune.llama_cpp import can_quantise

PROGRAM: Final = "llama-quantize"


def find_program() -> Path | None:
    """The user's ``llama-quantize``, to be used because the function cannot be; None: it can.

    Raises ExportError where neither is there.
    """
    if can_quantise():
        return None
    program = shutil.which(PROGRAM)
    if program is not None:
        return Path(program)
    package = "" if os.name == "nt" else 'run `pip install "repotune[gguf]"`, or '
    raise ExportError(
        f"q4_k_m is made by llama.cpp, which is not here: {package}put llama.cpp's {PROGRAM} on "
        "PATH, or take --quantisation q8_0, which needs neither."
    )


def run_program(program: Path, f16: Path, out: Path) -> None:
    """Make ``out`` in Q4_K_M of the GGUF file ``f16``, which is removed.

    Raises ExportError if the program fails.
    """
    done = subprocess.run(
        [program, f16, out, "Q4_K_M"], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode or not out.is_file():
        tail = " ".join((done.stderr or done.stdout)[-300:].split())
        raise ExportError(
            f"{program} failed (exit code {done.returncode}; it said: … {tail}): use another "
            "llama-quantize, or take --quantisation q8_0."
        )
    f16.unlink()
