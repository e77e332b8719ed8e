"""The process that locks itself in and then runs the program that it is sent.

It is started as a script by ``run``, with nothing but the standard library (``-I -S``). The order
matters: limits first, since setting them is among what the locks forbid.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PASSED, FAILED, NO_LANDLOCK, NO_SECCOMP = 60, 61, 62, 63
"""Exit statuses that no program has by accident; only the end of the program gives the first."""

# linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
# linux/landlock.h; the numbers of its system calls are the same on every machine.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH = 1
ALL_RIGHTS = (1 << 13) - 1
"""Those of its first version (Linux 5.13); what came later is a change of files, for seccomp."""
READ_FILE, READ_DIR = 1 << 2, 1 << 3


class SockFprog(ctypes.Structure):
    """``struct sock_fprog``: a filter and its number of instructions."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main() -> None:
    """Read the request on stdin, lock, run, and leave with a status that says how it went."""
    request = json.loads(sys.stdin.buffer.read())
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        set_limits(libc, request["limits"])
        allow_reading(libc, request["readable"])
    except OSError:
        os._exit(NO_LANDLOCK)
    try:
        allow_calls(libc, bytes.fromhex(request["filter"]))
    except OSError:
        os._exit(NO_SECCOMP)
    program = types.ModuleType("program")
    sys.modules["program"] = program
    try:
        exec(compile(request["source"], "program.py", "exec"), program.__dict__)
    except BaseException:
        os._exit(FAILED)
    os._exit(PASSED)


def set_limits(libc: ctypes.CDLL, limits: Mapping[str, int]) -> None:
    """Memory in bytes, processor time in seconds; no files, no core; gone with the parent."""
    if sys.platform != "linux":
        raise OSError(f"no such limits on {sys.platform}")
    import resource
    import signal

    _check(libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *_ZEROS))
    seconds = limits["cpu_seconds"]
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"],) * 2)
    # The first may be caught by the program, the second may not.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for unwanted in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(unwanted, (0, 0))


def allow_reading(libc: ctypes.CDLL, paths: Sequence[str]) -> None:
    """Landlock: only what lies at ``paths`` or beneath can be opened, and only to be read."""
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *_ZEROS))
    attr = struct.pack("=Q", ALL_RIGHTS)  # landlock_ruleset_attr, as of its first version
    ruleset = _check(
        libc.syscall(
            ctypes.c_long(LANDLOCK_CREATE_RULESET), attr, ctypes.c_size_t(len(attr)),
            ctypes.c_uint32(0),
        )
    )  # fmt: skip
    for path in paths:
        rights = READ_FILE | READ_DIR if Path(path).is_dir() else READ_FILE
        try:
            opened = os.open(path, os.O_RDONLY)
        except OSError:  # not on this system, or nothing that may be read anyway
            continue
        rule = struct.pack("=Qi", rights, opened)  # landlock_path_beneath_attr
        _check(
            libc.syscall(
                ctypes.c_long(LANDLOCK_ADD_RULE), ctypes.c_int(ruleset),
                ctypes.c_int(LANDLOCK_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0),
            )
        )  # fmt: skip
        os.close(opened)
    _check(
        libc.syscall(
            ctypes.c_long(LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint32(0)
        )
    )
    os.close(ruleset)


def allow_calls(libc: ctypes.CDLL, instructions: bytes) -> None:
    """seccomp: only the system calls that the filter allows, from here on."""
    program = SockFprog(len(instructions) // 8, instructions)
    _check(
        libc.prctl(
            PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program),
            ctypes.c_ulong(0), ctypes.c_ulong(0),
        )
    )  # fmt: skip


_ZEROS = (ctypes.c_ulong(0),) * 3


def _check(result: Any) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


if __name__ == "__main__":
    main()
