"""What NVIDIA's driver says, through its own library (NVML): it needs no PyTorch that works.

The only file that imports ``pynvml`` (the package ``nvidia-ml-py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml  # type: ignore[import-untyped]

from repotune.machine.facts import GpuFacts, GpuProcess
from repotune.machine.probe import process_name


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


def used_bytes(uuid: str) -> int | None:
    """Memory of the GPU ``uuid`` in use by all processes, None where no driver answers."""
    try:
        with _library():
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    except pynvml.NVMLError:
        return None


@contextmanager
def _library() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: Any) -> GpuFacts:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return GpuFacts(
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        compute_capability=(major, minor),
        memory_bytes=memory.total,
        free_bytes=memory.free,
        processes=_processes(handle),
    )


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
