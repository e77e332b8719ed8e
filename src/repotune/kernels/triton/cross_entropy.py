"""The loss of a chunk of logits and, written over them, its gradient: two passes over memory."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from repotune.records import IGNORE


@triton.jit
def _cross_entropy(
    logits_ptr, labels_ptr, losses_ptr, scale_ptr, logits_stride, VOCABULARY, IGNORE: tl.constexpr,
    WITH_GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    logits_row = logits_ptr + row * logits_stride
    columns = tl.arange(0, BLOCK)
    if label == IGNORE:
        tl.store(losses_ptr + row, 0.0)
        if WITH_GRADIENT:
            for start in range(0, VOCABULARY, BLOCK):
                at = start + columns
                zero = tl.zeros([BLOCK], logits_ptr.dtype.element_ty)
                tl.store(logits_row + at, zero, mask=at < VOCABULARY)
    else:
        top = float("-inf")
        total = 0.0
        for start in range(0, VOCABULARY, BLOCK):
            at = start + columns
            x = tl.load(logits_row + at, mask=at < VOCABULARY, other=float("-inf")).to(tl.float32)
            new_top = tl.maximum(top, tl.max(x))
            total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top))
            top = new_top
        log_sum = top + tl.log(total)
        wanted = tl.load(logits_row + label).to(tl.float32)
        tl.store(losses_ptr + row, log_sum - wanted)
        if WITH_GRADIENT:
            scale = tl.load(scale_ptr)
            for start in range(0, VOCABULARY, BLOCK):
                at = start + columns
                inside = at < VOCABULARY
                x = tl.load(logits_row + at, mask=inside, other=float("-inf")).to(tl.float32)
                p = tl.exp(x - log_sum) - tl.where(at == label, 1.0, 0.0)
                tl.store(logits_row + at, p * scale, mask=inside)


def losses_and_gradient(
    logits_mV: Tensor, labels_m: Tensor, losses_m: Tensor, *, scale: Tensor | None
) -> None:
    """Write each row's loss (nats, fp32) and, over the logits, ``scale`` [] times the gradient.

    Without ``scale`` the logits stay as they are.
    """
    _cross_entropy[(len(labels_m),)](
        logits_mV, labels_m, losses_m, losses_m if scale is None else scale,
        logits_mV.stride(0), logits_mV.shape[1],
        IGNORE=IGNORE, WITH_GRADIENT=scale is not None, BLOCK=4096, num_warps=8,
    )  # fmt: skip
