"""The facts about this computer that a run depends on, measured where asking is not enough."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from repotune.machine import triton
from repotune.records import Machine, Precision

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")
STATUS = Path("/proc/self/status")
_ROWS, _INNER, _COLUMNS = 512, 1024, 1024
_BF16_GAIN = 1.2
"""bf16 must be this much faster than fp32; less is within the noise of so short a timing."""


def probe(*, uses_gpu: bool = True) -> Machine:
    """This computer, now; as if it had no GPU unless ``uses_gpu``. Imports torch; the timing of
    bf16 takes about 0.1 s on a CPU."""
    import torch

    ram_bytes, ram_free_bytes = ram()
    on_gpu = uses_gpu and torch.cuda.is_available()
    return Machine(
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        cpu=cpu_name(),
        cores=usable_cores(),
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        gpu=torch.cuda.get_device_name(0) if on_gpu else None,
        gpu_free_bytes=torch.cuda.mem_get_info(0)[0] if on_gpu else 0,
        bf16=(
            torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else bf16_pays_off()
        ),
        triton=triton.what_is_missing() is None,
    )


def find_device() -> Literal["cpu", "cuda"]:
    """PyTorch's name of what a run computes on here; makes no CUDA context. Imports torch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def precision_here(asked: Literal["auto"] | Precision, machine: Machine) -> Precision:
    """The precision of a run whose settings say ``asked``."""
    if asked != "auto":
        return asked
    if machine.bf16:
        return "bf16"
    # A GPU without bf16 (before Ampere) has fp16; on a processor fp16 is emulated.
    return "fp16" if machine.gpu else "fp32"


def process_name(pid: int) -> str:
    """The name of a process, ``?`` where it is gone or hidden from this user."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"


def on_battery() -> bool:
    """Whether this computer has a battery and lives on it; False where nobody can tell."""
    if sys.platform == "darwin" or sys.platform == "win32" or sys.platform.startswith("linux"):
        battery = psutil.sensors_battery()
        return battery is not None and battery.power_plugged is False
    return False


def ram() -> tuple[int, int]:
    """The host's memory in all, and what a run may still take of it, in bytes."""
    memory = psutil.virtual_memory()
    return memory.total, _free_bytes(memory.available)


def _free_bytes(available: int) -> int:
    limited = container_free_bytes(CGROUP)
    return available if limited is None else min(available, limited)


def container_free_bytes(cgroup: Path) -> int | None:
    """What a container's memory limit leaves (cgroup v2), None where there is no limit.

    psutil sees the whole computer's memory; a process beyond its container's limit is killed.
    Pages of files that the kernel can drop at once (``inactive_file``) count as free.
    """
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        droppable = int(dict(line.split() for line in lines)["inactive_file"])
    except (OSError, ValueError, KeyError):  # ValueError: "max", no limit
        return None
    return max(0, limit - used + droppable)


def resident() -> int:
    """The host's memory that this process has now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def resident_peak() -> int:
    """The most of the host's memory that this process has had at once, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if STATUS.exists():
        # getrusage would count what the parent process had before it started this one.
        for line in STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def bf16_pays_off() -> bool:
    """Whether a bf16 matmul is faster than the same in fp32 on this CPU, by timing both.

    The CPU's capability flags have no public, portable name, and a flag does not say
    that the installed torch uses it.
    """
    import torch

    # Where bf16 is emulated it is up to a hundred times slower: an eighth of the work shows it.
    if _matmul_seconds(torch.bfloat16, _ROWS // 8) > 4 * _matmul_seconds(torch.float32, _ROWS // 8):
        return False
    fp32_seconds = _matmul_seconds(torch.float32, _ROWS)
    return fp32_seconds > _BF16_GAIN * _matmul_seconds(torch.bfloat16, _ROWS)


def _matmul_seconds(dtype: torch.dtype, rows: int) -> float:
    """The fastest of four [rows, 1024] x [1024, 1024] matmuls; the first one also sets up."""
    import torch

    left = torch.ones(rows, _INNER, dtype=dtype)
    right = torch.ones(_INNER, _COLUMNS, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def cpu_name() -> str:
    """The processor's name as its maker writes it, or the machine type where none is known."""
    if sys.platform == "win32":
        import winreg

        path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key_name, _, value = line.partition(":")
            if key_name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Logical cores that this process may use; a container or `taskset` may allow fewer."""
    if sys.platform != "darwin":
        return len(psutil.Process().cpu_affinity() or [0])
    return psutil.cpu_count() or 1
