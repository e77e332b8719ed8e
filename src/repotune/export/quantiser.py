"""Who makes Q4_K_M: llama.cpp's function in a package, or the user's own ``llama-quantize``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from repotune.errors import ExportError
from repotune.export.gguf import write_model
from repotune.llama_cpp import can_quantise
from repotune.model import WeightSource
from repotune.records import Quantisation

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


def write_quantised(
    path: Path, source: WeightSource, tokenizer: Mapping[str, Any], *, name: str,
    licence: str | None, quantisation: Quantisation, program: Path | None,
    wrote: Callable[[int], None],
) -> None:  # fmt: skip
    """``write_model``, by way of F16 where ``program`` has to quantise.

    Raises as ``write_model`` and ``run_program``.
    """
    first = path if program is None else path.with_name(f"{path.name}.f16")
    write_model(
        first, source, tokenizer, name=name, licence=licence,
        quantisation=quantisation if program is None else "f16", wrote=wrote,
    )  # fmt: skip
    if program is not None:
        run_program(program, first, path)
