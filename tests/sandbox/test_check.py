"""The sandbox says where it cannot be had, and runs nothing there."""

import platform
import subprocess
import sys

import pytest

from repotune.sandbox import unavailable

KERNEL_WITHOUT = """
import ctypes, struct
from repotune.errors import SandboxError
from repotune.sandbox import run_program, unavailable
# Answers ENOSYS to one system call, as a kernel without it does; for all that is started from here.
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (6, 0, 0, 0x50026), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *step) for step in steps)
class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))
libc = ctypes.CDLL(None)
zero = ctypes.c_ulong(0)
assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(Program(4, code)), zero, zero) == 0
try:
    run_program("pass")
except SandboxError:
    print(unavailable())
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's system calls")


@on_linux
def test_a_kernel_without_landlock_is_named():
    code = KERNEL_WITHOUT.format(number=444)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "this kernel has no Landlock (Linux 5.13 or later" in done.stdout


@on_linux
def test_a_processor_whose_calls_are_not_known_is_named(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert (
        unavailable.__wrapped__()
        == "the system calls of a processor named riscv64 are not known here"
    )


@pytest.mark.skipif(sys.platform == "linux", reason="other systems than Linux")
def test_other_systems_are_told_so():
    assert "only Linux has the locks" in unavailable()
