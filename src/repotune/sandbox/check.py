"""Whether the sandbox holds on this system, found out by attacking it."""

from __future__ import annotations

import platform
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from repotune.errors import SandboxError
from repotune.sandbox.run import run_program
from repotune.sandbox.seccomp import is_known

_ATTACK: Final = """
import bisect, collections, copy, functools, hashlib, heapq, itertools, math, os, random, re
import socket, string, typing

hashlib.md5(b"a test of one task").hexdigest()

attacks = (
    lambda: open({secret!r}).read(),
    lambda: open({secret!r}, "a"),
    lambda: open({secret!r} + ".new", "w"),
    lambda: os.listdir({folder!r}),
    lambda: os.unlink({secret!r}),
    lambda: os.chmod({secret!r}, 0),
    lambda: open("/proc/self/environ").read(),
    lambda: socket.socket(socket.AF_INET),
    lambda: socket.socket(socket.AF_UNIX),
    lambda: os.kill(os.getppid(), 0),
    os.fork,
)
for attack in attacks:
    try:
        attack()
    except OSError:
        continue
    raise SystemExit
"""
"""Passes if each attack is refused; the imports are what the tasks need."""


@cache
def unavailable() -> str | None:
    """Why no program can be run safely on this system, as a phrase; None: it can.

    Asked once in a process; takes about a tenth of a second.
    """
    if sys.platform != "linux":
        return "only Linux has the locks that this needs (Landlock and seccomp)"
    machine = platform.machine()
    if not is_known(machine) or sys.maxsize < 2**32:
        return f"the system calls of a processor named {machine} are not known here"
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder, "secret")
        secret.write_text("not for the program", encoding="utf-8")
        try:
            outcome = run_program(_ATTACK.format(secret=str(secret), folder=folder))
        except SandboxError as error:
            return str(error)
    if outcome != "passed":
        return f"the sandbox did not hold, or lacks modules, when it was tried ({outcome})"
    return None
