"""The device of a plan: this machine's, or a GPU that a user named."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from repotune.errors import UsageError
from repotune.events import Emit, ignore
from repotune.planning import Target, gpu_target, machine_target
from repotune.records import Calibration, Machine
from repotune.tables import find_gpu

if TYPE_CHECKING:
    from repotune.machine.driver import DriverFacts
    from repotune.machine.facts import GpuFacts

CPUINFO: Final = Path("/proc/cpuinfo")
BF16_FLAGS: Final = ("avx512_bf16", "amx_bf16", "bf16")
"""Of x86 and of ARM, as Linux shows them."""


def named_target(gpu: str) -> tuple[Target, list[str]]:
    """The GPU that a user named, and what has to be said of the name. Raises UsageError."""
    match = find_gpu(gpu)
    return gpu_target(match.gpu), [match.note] if match.note else []


def this_target(emit: Emit = ignore, *, compiler: str | None = None) -> tuple[Target, list[str]]:
    """This machine's GPU, or its processor, with what was measured on it; and notes.

    ``compiler``: what the environment's CC says, which Triton heeds.
    Raises UsageError for a GPU that is neither in the table nor measured.
    """
    machine, total_bytes, calibration, notes = _look(emit, compiler)
    row = None
    if machine.gpu is not None:
        try:
            row = find_gpu(machine.gpu, total_bytes).gpu
        except UsageError as unknown:
            notes.append(str(unknown))
    return machine_target(machine, row, calibration), notes


def _look(emit: Emit, compiler: str | None) -> tuple[Machine, int, Calibration | None, list[str]]:
    """This computer, its GPU's memory in all, what was measured on it, and notes; no torch."""
    from repotune.machine import triton
    from repotune.machine.calibrate import for_precision
    from repotune.machine.driver import ask_driver
    from repotune.machine.identity import machine_id
    from repotune.machine.outcomes import track_record
    from repotune.machine.probe import cpu_name, ram, usable_cores
    from repotune.machine.store import read_outcomes, read_rates
    from repotune.machine.texts import say

    torch, cuda = torch_build()
    driver = ask_driver()
    gpu, notes = usable_gpu(driver, torch, cuda)
    if gpu is not None and driver is not None:
        key = machine_id(gpu.name, gpu.uuid.removeprefix("GPU-"), driver.version, torch)
        bf16 = gpu.compute_capability >= (8, 0)
        precision = "bf16" if bf16 else "fp16"
    else:
        key = machine_id(cpu_name(), f"{usable_cores()} cores", "", torch)
    rates = read_rates(key, emit=emit)
    if gpu is None:
        flags = _cpu_flags()
        known = rates.matmul_flops_per_second if rates else flags
        bf16 = bool({"bf16", *BF16_FLAGS} & set(known))
        precision = "bf16" if bf16 else "fp32"
    ram_bytes, ram_free_bytes = ram()
    fault = triton.what_is_missing(compiler)
    machine = Machine(
        platform="",
        python="",
        torch=torch,
        cpu=cpu_name(),
        cores=usable_cores(),
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        gpu=gpu.name if gpu else None,
        gpu_free_bytes=gpu.free_bytes if gpu else 0,
        bf16=bf16,
        triton=fault is None,
    )
    measured = for_precision(rates, precision) if rates else None
    if gpu is not None and bf16 and fault is not None:
        notes.append(
            f"{say('en', fault.key, detail=fault.detail)}, so the plan is for plain PyTorch, which "
            "is slower: `repotune doctor` says how to mend it."
        )
    if (record := track_record(read_outcomes(key, emit=emit))) is not None:
        notes.append(record)
    return machine, gpu.memory_bytes if gpu else 0, measured, notes


def usable_gpu(
    driver: DriverFacts | None, torch: str, cuda: str
) -> tuple[GpuFacts | None, list[str]]:
    """The GPU that a run here would take, and why there is none, or what stands in its way.

    ``torch`` and ``cuda`` are those of ``torch_build``.
    """
    from repotune.machine.facts import TorchFacts
    from repotune.machine.fixes import driver_major, least_driver
    from repotune.machine.graphics import has_kernels, held_by_others

    if driver is None or not driver.gpus:
        return None, [
            "No NVIDIA driver answers here, so the plan is for the processor: --gpu NAME plans for "
            "a GPU, `repotune doctor` says what is missing if there is one."
        ]
    gpu, to_mend = driver.gpus[0], "the plan is for the processor"
    if not cuda:
        return None, [
            f"PyTorch {torch or 'is not installed or'} cannot use the {gpu.name}: `repotune "
            f"doctor` says which build can, and {to_mend}."
        ]
    major, minor = (int(part) for part in cuda.split(".")[:2])
    least = least_driver((major, minor))
    if driver_major(driver.version) < least:
        return None, [
            f"Driver {driver.version} is older than the {least} that PyTorch for CUDA {cuda} "
            f"needs, so the {gpu.name} cannot be used: `repotune doctor` says how to mend it, and "
            f"{to_mend}."
        ]
    build = TorchFacts(
        version=torch, cuda_build=(major, minor), cudnn=None, architectures=(), sees_gpu=False
    )
    if not has_kernels(build, gpu.compute_capability):
        return None, [
            f"PyTorch for CUDA {cuda} has no kernels for the {gpu.name}: `repotune doctor` says "
            f"which build has them, if any, and {to_mend}."
        ]
    return gpu, [note] if (note := held_by_others(gpu)) else []


def torch_build() -> tuple[str, str]:
    """PyTorch's version and the CUDA it was built with, each empty if there is none; importing it
    would take seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "", ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return "", ""
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*= '([^']*)'", text, re.MULTILINE)
    return version[1] if version else "", cuda[1] if cuda else ""


def _cpu_flags() -> tuple[str, ...]:
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return tuple(found[1].split()) if found else ()
