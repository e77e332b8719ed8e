"""The filter as the kernel reads it, by a small interpreter of its instructions."""

import errno
import struct

import pytest

from repotune.sandbox.seccomp import bpf_program, is_known

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EACCES


def answer(machine, number, *, arch=None, arguments=(0, 0, 0)):
    """What the filter says to a system call (the instructions of classic BPF that it uses)."""
    data = struct.pack(
        "=IIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *arguments, 0, 0, 0
    )
    code = list(struct.iter_unpack("=HBBI", bpf_program(machine)))
    at, value = 0, 0
    while True:
        kind, then, otherwise, operand = code[at]
        at += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif kind == 0x15:
            at += then if value == operand else otherwise
        elif kind == 0x45:
            at += then if value & operand else otherwise
        else:
            assert kind == 0x06
            return operand


@pytest.mark.parametrize(
    ("machine", "read", "openat", "socket", "clone"),
    [("x86_64", 0, 257, 41, 56), ("aarch64", 63, 56, 198, 220)],
)
def test_reading_is_allowed_and_nothing_that_reaches_out(machine, read, openat, socket, clone):
    assert answer(machine, read) == ALLOW
    assert answer(machine, openat, arguments=(0, 0, 0o2000000)) == ALLOW  # O_CLOEXEC
    for flags in (0o1, 0o2, 0o100, 0o1000, 0o2000001):
        assert answer(machine, openat, arguments=(0, 0, flags)) == REFUSE
    assert answer(machine, socket) == answer(machine, clone) == REFUSE
    assert answer(machine, read | 1 << 30) == REFUSE  # x32
    assert answer(machine, read, arch=0x40000003) == KILL  # i386


def test_a_new_call_is_refused_until_somebody_allows_it():
    for machine, most in (("x86_64", 65), ("aarch64", 60)):
        allowed = [number for number in range(1000) if answer(machine, number) == ALLOW]
        assert 40 < len(allowed) < most


def test_only_these_processors_are_known():
    assert is_known("x86_64") and is_known("aarch64")
    assert not is_known("armv7l") and not is_known("AMD64")
