"""Which table of operations a device gets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec

import torch

from repotune.kernels.buffers import ALIGNMENT
from repotune.kernels.ops import PLAIN, PLAIN_GPU, Ops
from repotune.records import Machine

FUSED_SINCE = (8, 0)
"""Compute capability (Ampere) from which PyTorch's flash attention and bf16 exist."""


def fastest_ops(
    device: torch.device, dtype: torch.dtype, *, deterministic: bool = False
) -> tuple[Ops, str | None]:
    """The fastest operations for ``device`` and ``dtype``; and, if not the fused ones, why not.

    ``deterministic`` leaves out what gives other bits from run to run.
    """
    if device.type != "cuda":
        return PLAIN, None
    unfused = PLAIN if deterministic else PLAIN_GPU
    if dtype not in (torch.bfloat16, torch.float16):
        return unfused, (
            "The fused kernels compute in 16 bits, and the precision is fp32: using plain PyTorch, "
            "which is slower."
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < FUSED_SINCE:
        return unfused, (
            f"This GPU's compute capability is {capability[0]}.{capability[1]}, and the fused "
            f"kernels need {FUSED_SINCE[0]}.{FUSED_SINCE[1]}: using plain PyTorch, which is slower."
        )
    if (why := why_not_triton()) is not None:
        return unfused, (
            f"{why}, so the fused kernels are not used, and it will be slower: `repotune doctor` "
            "says how to mend it."
        )
    return _fused(deterministic), None


def with_triton_tried(machine: Machine) -> Machine:
    """``machine`` with what a trial says of Triton, where the fused kernels would be used."""
    if machine.gpu is None or not machine.bf16:
        return machine
    return replace(machine, triton=why_not_triton() is None)


def why_not_triton() -> str | None:
    """Why Triton's kernels cannot be used on the GPU, as a clause; None if they run.

    Raises torch.OutOfMemoryError.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    said = what_triton_says()
    return None if said is None else f"Triton does not work here ({said})"


@cache
def what_triton_says() -> str | None:
    """Where Triton, which must be installed, does not work on the GPU; None if its kernels run.

    Tried once, on the GPU, since an installed Triton may be broken. Raises torch.OutOfMemoryError.
    """
    return tried(partial(_fused, False), torch.device("cuda"))


def tried(make: Callable[[], Ops], device: torch.device) -> str | None:
    """None if the norm of ``make()`` runs, else what Triton said."""
    x_TD = torch.ones(2, ALIGNMENT, dtype=torch.float16, device=device)
    try:
        make().rms_norm(x_TD, x_TD[0], 1e-5, torch.empty_like(x_TD))
    except torch.OutOfMemoryError:
        raise
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())[:200]
    return None


def _fused(deterministic: bool) -> Ops:
    # Imported here: Triton is where a CUDA build of PyTorch is, and nowhere else.
    from repotune.kernels.triton.table import fused_ops

    return fused_ops(deterministic=deterministic)
