"""The table of operations for NVIDIA GPUs with Triton (Ampere and later)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from repotune.kernels.buffers import Buffers
from repotune.kernels.cross_entropy import HeadRows
from repotune.kernels.heads import Heads
from repotune.kernels.ops import Ops
from repotune.kernels.triton import adapters, attention, elementwise, nf4
from repotune.kernels.triton import cross_entropy as losses

CHUNK_ROWS = 1024
"""Rows of logits at a time: enough to keep a matmul with the vocabulary busy, 65 MB for 32,000."""


def rotate(
    qkv_TO: Tensor, cos_T1h: Tensor, sin_T1h: Tensor, heads: Heads, buffers: Buffers
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``heads.rotate``; in place, and q, k and v are views of ``qkv``."""
    rotated = heads.queries // heads.width + heads.kv
    elementwise.rope(qkv_TO, qkv_TO, cos_T1h, sin_T1h, rotated, back=False)
    return heads.split(qkv_TO)


def rotate_back(
    dq: Tensor, dk: Tensor, dv: Tensor, cos_T1h: Tensor, sin_T1h: Tensor, heads: Heads,
    dqkv_TO: Tensor,
) -> None:  # fmt: skip
    """See ``heads.rotate_back``."""
    dq_TO, dk_TO, dv_TO = (torch.flatten(one.transpose(0, 1), 1) for one in (dq, dk, dv))
    query_heads = heads.kv * heads.group
    elementwise.rotate_back(dq_TO, dk_TO, dv_TO, dqkv_TO, cos_T1h, sin_T1h, query_heads, heads.kv)


def cross_entropy(
    x_TD: Tensor, head_VD: Tensor, labels_T: Tensor, *, scale: Tensor, dx: Tensor,
    buffers: Buffers, rows: HeadRows | None = None,
) -> Tensor:  # fmt: skip
    """See ``cross_entropy.cross_entropy``; chunks are of one size, whatever is labelled."""
    losses_T = torch.empty(len(labels_T), dtype=torch.float32, device=x_TD.device)
    for chunk, logits in _chunks(x_TD, head_VD, buffers):
        losses.losses_and_gradient(logits, labels_T[chunk], losses_T[chunk], scale=scale)
        torch.mm(logits, head_VD, out=dx[chunk])
        if rows is not None:
            adapters.add_product(rows.gradient_ND, logits[:, rows.columns].t(), x_TD[chunk], 1.0)
    return losses_T.sum()


def token_losses(x_TD: Tensor, head_VD: Tensor, labels_T: Tensor, buffers: Buffers) -> Tensor:
    """See ``cross_entropy.token_losses``."""
    losses_T = torch.empty(len(labels_T), dtype=torch.float32, device=x_TD.device)
    for rows, logits in _chunks(x_TD, head_VD, buffers):
        losses.losses_and_gradient(logits, labels_T[rows], losses_T[rows], scale=None)
    return losses_T


def _chunks(x_TD: Tensor, head_VD: Tensor, buffers: Buffers) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(x_TD), CHUNK_ROWS):
        rows = slice(start, min(start + CHUNK_ROWS, len(x_TD)))
        # In the place of gate and up: between forward and backward no layer's are there.
        logits = buffers.take("gate_up", rows.stop - rows.start, len(head_VD))
        yield rows, torch.mm(x_TD[rows], head_VD.t(), out=logits)


def fused_ops(*, deterministic: bool = False) -> Ops:
    """Triton kernels and fused attention; ``deterministic`` leaves out cuDNN's attention."""
    return Ops(
        is_recordable=True,
        rotates_in_place=True,
        rms_norm=elementwise.rms_norm,
        rms_norm_backward=elementwise.rms_norm_backward,
        rotate=rotate,
        rotate_back=rotate_back,
        swiglu=elementwise.swiglu,
        swiglu_backward=elementwise.swiglu_backward,
        attention=attention.flash_attention if deterministic else attention.fastest_attention,
        attention_backward=(
            attention.flash_attention_backward
            if deterministic
            else attention.fastest_attention_backward
        ),
        cross_entropy=cross_entropy,
        token_losses=token_losses,
        dequantise=nf4.dequantise,
        place_adapter=nf4.place_adapter,
        add_product=adapters.add_product,
        add_normed_product=adapters.add_normed_product,
        adapter_gradients=adapters.adapter_gradients,
        copy_columns=elementwise.copy_columns,
    )
