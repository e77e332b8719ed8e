"""What a device sustains: measured by a probe, or from its row in the table with a wider range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from repotune.errors import UsageError
from repotune.records import Calibration, Gpu

SUSTAINED: Final = {
    "Maxwell": 0.75,
    "Pascal": 0.75,
    "Volta": 0.65,
    "Turing": 0.55,
    "Ampere": 0.75,
    "Ada Lovelace": 0.75,
    "Hopper": 0.675,
    "Blackwell": 0.68,
}
"""Share of the peak that long matmuls reach. Hopper's is measured (668 of 989 TFLOP/s, bf16, held
back by power); the others are assumed from it and within the range that UNMEASURED gives."""
UNMEASURED: Final = 1.55
"""A rate from the table may be this much lower or higher: high is then 2.4 times low, and below 3
times when the tokens are an estimate too."""
CALIBRATED: Final = 1.08
"""A measured rate may be this much off in a run: cards heat up (433 -> 447 ms within minutes)."""

FAST_ATTENTION: Final = 0.73
"""Of the matmul rate, forward and backward over long rows (cuDNN, H100)."""
SLOW_ATTENTION: Final = 0.35
"""Where there is no flash kernel: before compute capability 8.0. Packed rows get ``speed.FLASH`` of
it, as of the other."""
CPU_ATTENTION: Final = 0.4
"""Of the matmul rate: fitted to the starter on rows of 256 to 2,048 tokens (2 cores, bf16)."""
STREAMED: Final = 0.85
"""Share of the bandwidth that operations between matmuls reach."""
PCIE_LANE: Final = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9}
"""Bytes a second and lane."""
PCIE_REACHED: Final = 0.85
"""54 of 63 GB/s with pinned memory, H100, PCIe 5 x16."""

OPERATION_SECONDS: Final = (18e-6, 27e-6, 43e-6)
"""Host time of one of the engine's operations, with its views and Python around it: 41 µs on the
slow host of an H100 (119 ms for 1 × 1024 over 32 layers), less on a desktop."""
HOST_FACTOR: Final = 4.0
"""One of the engine's operations takes as long on the host as this many of the probe's."""
CPU_HOST_FACTOR: Final = 24.0
"""The same on a CPU, where an operation also wakes the other threads: 0.04 ms with launches of
1.8 µs, by the same rows."""
CPU_OPERATION_SECONDS: Final = 42e-6

CPU_BF16_FLOPS: Final = 450e9
"""A core's, with bf16 units (AMX, AVX-512 BF16): the starter's 690 tokens/s on 2 cores of an EPYC
of the fifth generation."""
CPU_FP32_FLOPS: Final = 55e9
"""A core's, with AVX2 or NEON."""
CPU_BANDWIDTH: Final = 20e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a device does a second."""

    matmul_flops: float
    attention_flops: float
    bandwidth: float
    """Bytes read or written by what stands between matmuls."""
    host_to_device: float | None
    """Bytes each way; None on a CPU."""
    operation_seconds: float
    """Host time of one operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRange:
    """The rates if things go badly, as expected, and well."""

    slow: Rates
    expected: Rates
    fast: Rates
    measured: bool


def gpu_rates(gpu: Gpu | None, calibration: Calibration | None) -> RateRange:
    """Of a GPU; what was measured on this machine goes before its row.

    Raises UsageError for a GPU that has no row and was not measured.
    """
    flash = gpu is None or gpu.compute_capability >= (8, 0)
    attention = FAST_ATTENTION if flash else SLOW_ATTENTION
    if calibration is not None:
        host_to_device = calibration.host_to_device
        operation = calibration.launch_seconds * HOST_FACTOR
        return _range(
            lambda factor: Rates(
                matmul_flops=calibration.matmul_flops * factor,
                attention_flops=calibration.matmul_flops * attention * factor,
                bandwidth=calibration.bandwidth * STREAMED * factor,
                host_to_device=host_to_device and host_to_device * factor,
                operation_seconds=operation / factor,
            ),
            CALIBRATED,
            measured=True,
        )
    if gpu is None:
        raise UsageError(
            "This GPU is not in the table of GPUs, so nobody knows how fast it is: "
            "measure it with `repotune calibrate`, or name another one with --gpu."
        )
    matmul = peak_flops(gpu) * SUSTAINED[gpu.architecture]
    fast, expected, slow = OPERATION_SECONDS
    host = {UNMEASURED: fast, 1.0: expected, 1 / UNMEASURED: slow}
    return _range(
        lambda factor: Rates(
            matmul_flops=matmul * factor,
            attention_flops=matmul * attention * factor,
            # The data sheet's bandwidth is not exceeded.
            bandwidth=gpu.bandwidth_gb_s * 1e9 * STREAMED * min(factor, 1 / STREAMED),
            host_to_device=_pcie(gpu) * min(factor, 1 / PCIE_REACHED),
            operation_seconds=host[factor],
        ),
        UNMEASURED,
        measured=False,
    )


def cpu_rates(cores: int, *, bf16: bool, calibration: Calibration | None) -> RateRange:
    """Of a CPU; ``bf16`` says whether its bf16 matmuls are faster than fp32 ones."""
    if calibration is not None:
        matmul, bandwidth = calibration.matmul_flops, calibration.bandwidth
        operation = calibration.launch_seconds * CPU_HOST_FACTOR
    else:
        operation = CPU_OPERATION_SECONDS
        matmul, bandwidth = cores * (CPU_BF16_FLOPS if bf16 else CPU_FP32_FLOPS), CPU_BANDWIDTH
    return _range(
        lambda factor: Rates(
            matmul_flops=matmul * factor,
            attention_flops=matmul * CPU_ATTENTION * factor,
            bandwidth=bandwidth * factor,
            host_to_device=None,
            operation_seconds=operation / factor,
        ),
        UNMEASURED if calibration is None else CALIBRATED,
        measured=calibration is not None,
    )


def peak_flops(gpu: Gpu) -> float:
    """FLOP/s of dense 16-bit matmuls that sum in fp32; without such units, of plain fp32."""
    tflops = gpu.bf16_tflops if gpu.bf16 else gpu.fp16_tflops
    return (tflops or gpu.fp32_tflops) * 1e12


def _pcie(gpu: Gpu) -> float:
    return PCIE_LANE[gpu.pcie_generation] * gpu.pcie_lanes * PCIE_REACHED


def _range(rates: Callable[[float], Rates], spread: float, *, measured: bool) -> RateRange:
    return RateRange(
        slow=rates(1 / spread), expected=rates(1.0), fast=rates(spread), measured=measured
    )
