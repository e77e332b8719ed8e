"""The device that a plan is for: this machine as it is now, or a row of the table of GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from repotune.planning.memory import context_bytes
from repotune.planning.rates import RateRange, cpu_rates, gpu_rates
from repotune.planning.setup import Device
from repotune.records import Calibration, Gpu, Machine, Range

VISIBLE: Final = 0.94
"""Share of the memory sold that CUDA shows, where the table does not know it: 0.91 (T4, ECC) to
0.99."""
DISPLAY_BYTES: Final = 400 * 2**20
"""What a desktop takes on the card that drives its screen."""
HOST_FREE_BYTES: Final = 10 * 2**30
"""Of a machine that is not here: of 16 GB, the least that the requirements page asks for."""
CONTEXT_SPREAD: Final = (0.7, 1.3)
LIBRARY_BYTES: Final = 100 * 2**20
"""Kernels of cuDNN, cuBLAS and Triton that the first steps load, after a calibration's context was
measured: 75 to 145 MiB on an H100."""
FUSED_SINCE: Final = (8, 0)
"""Of ``kernels.select``: the compute capability of Ampere."""
LOADED_CONTEXT_BYTES: Final = 800 * 2**20
"""Of a GPU that is not in the table and was not measured: an H100's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device, what is free on it, and how fast it is."""

    name: str
    device: Device
    gpu: Gpu | None
    """Its row, where the table has one."""
    bf16: bool
    """Whether 16-bit matmuls pay off; a GPU without bf16 computes in fp16."""
    fused: bool
    """Whether a run in 16 bits gets the fused operations."""
    free_bytes: int
    """Of device memory, for a run, its context not counted."""
    host_free_bytes: int
    """Of the host's memory, before the run."""
    context: Range
    """Bytes; 0 without a GPU."""
    rates: RateRange
    here: bool
    """Whether it is this machine."""


def gpu_target(gpu: Gpu) -> Target:
    """A GPU of the table, in a machine that is not here: nothing else runs on it but a screen."""
    visible = gpu.memory_bytes or int(gpu.memory_gb * 2**30 * VISIBLE)
    screen = DISPLAY_BYTES if gpu.kind in ("desktop", "laptop") else 0
    context = gpu_context(gpu, None)
    return Target(
        name=gpu.name,
        device="cuda",
        gpu=gpu,
        bf16=gpu.bf16,
        fused=gpu.compute_capability >= FUSED_SINCE,
        free_bytes=visible - screen - round(context.expected),
        host_free_bytes=HOST_FREE_BYTES,
        context=context,
        rates=gpu_rates(gpu, None),
        here=False,
    )


def machine_target(
    machine: Machine, gpu: Gpu | None, calibration: Calibration | None, *, has_context: bool = False
) -> Target:
    """This machine. ``gpu`` is its GPU's row, if there is one; a GPU needs a row or a calibration.

    Unless the process ``has_context``, its context will come out of ``machine.gpu_free_bytes``.
    """
    if machine.gpu is None:
        return Target(
            name=machine.cpu,
            device="cpu",
            gpu=None,
            bf16=machine.bf16,
            fused=False,
            free_bytes=machine.ram_free_bytes,
            host_free_bytes=machine.ram_free_bytes,
            context=Range(low=0, expected=0, high=0),
            rates=cpu_rates(machine.cores, bf16=machine.bf16, calibration=calibration),
            here=True,
        )
    context = gpu_context(gpu, calibration)
    return Target(
        name=machine.gpu,
        device="cuda",
        gpu=gpu,
        bf16=machine.bf16,
        fused=machine.has_fused_kernels,
        free_bytes=max(0, machine.gpu_free_bytes - (0 if has_context else round(context.expected))),
        host_free_bytes=machine.ram_free_bytes,
        context=context,
        rates=gpu_rates(gpu, calibration),
        here=True,
    )


def gpu_context(gpu: Gpu | None, calibration: Calibration | None) -> Range:
    """Bytes of a CUDA context: as measured, else by the GPU's size, else an H100's."""
    if calibration is not None and calibration.context_bytes:
        measured = calibration.context_bytes + LIBRARY_BYTES
        return Range(low=measured, expected=measured, high=measured)
    expected = LOADED_CONTEXT_BYTES if gpu is None else context_bytes(gpu.sm_count)
    low, high = CONTEXT_SPREAD
    return Range(low=low * expected, expected=expected, high=high * expected)
