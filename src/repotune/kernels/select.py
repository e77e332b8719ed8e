"""Which table of operations a device gets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch

from repotune.kernels.buffers import ALIGNMENT
from repotune.kernels.ops import PLAIN, PLAIN_GPU, Ops

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
    if find_spec("triton") is None:
        return unfused, (
            "Triton is not installed, so the fused kernels are not used, and it will be slower: "
            "`pip install triton` (on Windows: triton-windows)."
        )
    return tried(partial(_fused, deterministic), unfused, device, dtype)


def tried(
    make: Callable[[], Ops], unfused: Ops, device: torch.device, dtype: torch.dtype
) -> tuple[Ops, str | None]:
    """``make()`` if its norm runs, else ``unfused`` and why: Triton may be installed and broken."""
    x_TD = torch.ones(2, ALIGNMENT, dtype=dtype, device=device)
    try:
        fused = make()
        fused.rms_norm(x_TD, x_TD[0], 1e-5, torch.empty_like(x_TD))
    except torch.OutOfMemoryError:
        raise
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        why = " ".join(str(error).split())[:200]
        return unfused, (
            f"Triton does not work here ({why}), so the fused kernels are not used, and it will be "
            "slower: it needs a C compiler and Python's headers."
        )
    return fused, None


def _fused(deterministic: bool) -> Ops:
    # Imported here: Triton is where a CUDA build of PyTorch is, and nowhere else.
    from repotune.kernels.triton.table import fused_ops

    return fused_ops(deterministic=deterministic)
