"""Starting a locked process for a program, and waiting for it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from repotune.errors import SandboxError
from repotune.sandbox import child
from repotune.sandbox.seccomp import bpf_program

Outcome: TypeAlias = Literal["passed", "failed", "killed", "timed out"]
"""``passed``: it ran to its end. ``failed``: it raised, ``SystemExit`` included. ``killed``: it
crashed, left by itself, or used up its processor time."""

_OUTCOMES: Final[dict[int, Outcome]] = {child.PASSED: "passed", child.FAILED: "failed"}
_REASONS: Final = {
    child.NO_LANDLOCK: "this kernel has no Landlock (Linux 5.13 or later has it, unless a "
    "container hides it)",
    child.NO_SECCOMP: "this kernel takes no seccomp filter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use."""

    cpu_seconds: int = 5
    wall_seconds: float = 30.0
    memory_bytes: int = 2**30


LIMITS: Final = Limits()


def run_program(source: str, limits: Limits = LIMITS) -> Outcome:
    """Run the Python text ``source`` in a process of its own that is locked in, and say how it
    ended; what it prints goes nowhere.

    Raises SandboxError, and runs nothing, where the process cannot be locked in.
    """
    bounds = asdict(limits)
    wall_seconds = bounds.pop("wall_seconds")
    request = {
        "source": source,
        "limits": bounds,
        "readable": readable(),
        "filter": bpf_program(platform.machine()).hex(),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", str(Path(child.__file__))],
            input=json.dumps(request).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,  # no terminal, and no Ctrl-C but the parent's
            timeout=wall_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "timed out"
    except OSError as error:
        raise SandboxError(f"no process for it could be started ({error.strerror})") from None
    if done.returncode in _REASONS:
        raise SandboxError(_REASONS[done.returncode])
    return _OUTCOMES.get(done.returncode, "killed")


def readable() -> list[str]:
    """What the program may read: the standard library, and the libraries that it is linked to."""
    return [
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
        str(Path(sys.base_prefix, "lib")),
        "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache",
    ]  # fmt: skip
