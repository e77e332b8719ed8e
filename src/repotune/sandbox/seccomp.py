"""The system calls that a locked process may make, as a program for the kernel (seccomp-bpf).

Only what a single-threaded interpreter needs to compute, to import and to end is allowed; anything
else answers EACCES. A list of what is allowed stays tight when kernels get new calls. It has no
sockets, no processes and threads, no signals, no ``prlimit64``, and nothing that changes a file.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

_X86_64, _AARCH64 = "x86_64", "aarch64"

_AUDIT_ARCH: Final = {_X86_64: 0xC000003E, _AARCH64: 0xC00000B7}
"""``linux/audit.h``: by which the kernel names the table of numbers that a call belongs to."""

# name: (number on x86_64, number on aarch64), from the kernel's asm/unistd_64.h and
# asm-generic/unistd.h; None: the machine has no such call.
ALLOWED: Final[dict[str, tuple[int | None, int | None]]] = {
    # files: reading
    "read": (0, 63), "readv": (19, 65), "pread64": (17, 67), "lseek": (8, 62), "close": (3, 57),
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    # to what is open: nothing but /dev/null
    "write": (1, 64), "writev": (20, 66),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233),
    # what it is, and what time it is
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "getgid": (104, 176),
    "geteuid": (107, 175), "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179),
    "getrusage": (98, 165), "times": (100, 153), "sched_getaffinity": (204, 123),
    "time": (201, None), "gettimeofday": (96, 169), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "getrandom": (318, 278),
    # waiting, and its own signals
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "restart_syscall": (219, 128),
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "futex": (202, 98), "sched_yield": (24, 124), "rseq": (334, 293),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    # the end
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

OPEN: Final[dict[str, tuple[int | None, int | None]]] = {"open": (2, None), "openat": (257, 56)}
_FLAGS_AT: Final = {"open": 1, "openat": 2}
"""Which argument of these calls holds the flags."""
_WRITING: Final = 0o3 | 0o100 | 0o1000
"""O_ACCMODE, O_CREAT and O_TRUNC, the same on both machines: a file is opened to be read."""

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | errno.EACCES
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
"""Offsets in ``struct seccomp_data``."""


def is_known(machine: str) -> bool:
    """Whether the calls of a processor, as ``platform.machine()`` names it, are known here."""
    return machine in _AUDIT_ARCH


def bpf_program(machine: str) -> bytes:
    """The filter as instructions of 8 bytes, for a little-endian 64-bit ``machine``."""
    column = list(_AUDIT_ARCH).index(machine)
    code = [
        _step(_LOAD, _ARCH_AT),
        _step(_EQUAL, _AUDIT_ARCH[machine], then=1),
        _step(_RETURN, _KILL),  # another table of numbers, as of 32-bit programs
        _step(_LOAD, _NUMBER_AT),
    ]
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            code += [_step(_EQUAL, number, otherwise=1), _step(_RETURN, _ALLOW)]
    for name, numbers in OPEN.items():
        number = numbers[column]
        if number is not None:
            code += [
                _step(_EQUAL, number, otherwise=4),
                _step(_LOAD, _ARGUMENTS_AT + 8 * _FLAGS_AT[name]),
                _step(_ANY_BIT, _WRITING, otherwise=1),
                _step(_RETURN, _REFUSE),
                _step(_RETURN, _ALLOW),
            ]
    code.append(_step(_RETURN, _REFUSE))
    return b"".join(code)


def _step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One ``struct sock_filter``; the jumps count the instructions to leave out."""
    return struct.pack("=HBBI", code, then, otherwise, value)
