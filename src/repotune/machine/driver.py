"""What NVIDIA's driver says, through its own library (NVML): it needs no PyTorch that works.

The only file that imports ``pynvml`` (the package ``nvidia-ml-py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pynvml  # type: ignore[import-untyped]

from repotune.machine.facts import GpuFacts, GpuProcess
from repotune.machine.probe import process_name

SLOWED: Final = (
    pynvml.nvmlClocksThrottleReasonHwSlowdown
    | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFacts:
    """A driver that answers, and its GPUs in the order of the bus."""

    version: str
    gpus: tuple[GpuFacts, ...]


def ask_driver() -> DriverFacts | None:
    """The driver and its GPUs, None where there is no driver or it does not answer."""
    try:
        with _library():
            count = pynvml.nvmlDeviceGetCount()
            return DriverFacts(
                version=_text(pynvml.nvmlSystemGetDriverVersion()),
                gpus=tuple(_gpu(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)),
            )
    except pynvml.NVMLError:
        return None


def is_throttled() -> bool:
    """Whether a GPU runs slower than it could because of heat, or of too little power.

    That it stays within its power limit is usual and no such case. False where nobody can tell.
    """
    try:
        with _library():
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            return any(
                pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & SLOWED
                for handle in handles
            )
    except pynvml.NVMLError:
        return False


@contextmanager
def _library() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: Any) -> GpuFacts:
    total, free = _memory(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return GpuFacts(
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        compute_capability=(major, minor),
        memory_bytes=total,
        free_bytes=free,
        processes=_processes(handle),
    )


def _memory(handle: Any) -> tuple[int, int]:
    """What programs may have of the GPU in all, and what of it is free, in bytes.

    The driver keeps some for itself (480 MiB of an H100), which CUDA does not show either;
    libraries before driver 510 do not tell it apart.
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return memory.total - memory.reserved, memory.free
    except pynvml.NVMLError:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return memory.total, memory.free


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    """Compute and graphics processes but this one, the largest first."""
    found: dict[int, int | None] = {}
    for ask in (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        try:
            for one in ask(handle):
                found[one.pid] = one.usedGpuMemory
        except pynvml.NVMLError:  # not told inside WSL and some containers
            continue
    found.pop(os.getpid(), None)
    processes = [
        GpuProcess(pid=pid, name=process_name(pid), used_bytes=used) for pid, used in found.items()
    ]
    return tuple(sorted(processes, key=lambda one: -(one.used_bytes or 0)))


def _text(value: str | bytes) -> str:
    """Older versions of the library give bytes."""
    return value.decode() if isinstance(value, bytes) else value
