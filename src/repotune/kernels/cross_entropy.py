"""Cross-entropy of a frozen head, in chunks: the logits of the whole row never exist at once.

Shapes: T tokens, D width, V vocabulary, m rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repotune.kernels.buffers import Buffers
from repotune.kernels.plain import add_product
from repotune.records import IGNORE

CHUNK_ELEMENTS = 2**23
"""Logits of a chunk: 32 MiB in fp32, within the last-level cache of a desktop CPU."""


@dataclass(frozen=True, slots=True)
class HeadRows:
    """The few rows of the head that are trained."""

    columns: slice
    """Their ids: they are neighbours."""
    gradient_ND: Tensor
    """fp32; what is added to it is ``scale`` × (p - 1 at the label) × x, summed over T."""


def cross_entropy(
    x_TD: Tensor, head_VD: Tensor, labels_T: Tensor, *, scale: Tensor, dx: Tensor,
    buffers: Buffers, rows: HeadRows | None = None,
) -> Tensor:  # fmt: skip
    """Sum of the token losses (nats, fp32 scalar); ``dx`` [T, D] gets ``scale`` × its gradient.

    ``scale`` is a scalar [] on x's device. Positions labelled IGNORE cost nothing and have a zero
    gradient. Of the head only ``rows`` get one.
    """
    total = torch.zeros((), dtype=torch.float32, device=x_TD.device)
    dx.zero_()
    for index_m in _chunks(labels_T, head_VD.shape[0]):
        labels_m = labels_T[index_m]
        loss_m, p_mV = _losses(x_TD[index_m], head_VD, labels_m, buffers)
        total += loss_m.sum()
        p_mV[torch.arange(len(index_m), device=p_mV.device), labels_m] -= 1.0
        dlogits_mV = buffers.take("logits", *p_mV.shape).copy_(p_mV.mul_(scale))
        dx[index_m] = dlogits_mV @ head_VD
        if rows is not None:
            of_rows_Nm = dlogits_mV[:, rows.columns].t()
            add_product(rows.gradient_ND, of_rows_Nm, x_TD[index_m], 1.0)
    return total


def token_losses(x_TD: Tensor, head_VD: Tensor, labels_T: Tensor, buffers: Buffers) -> Tensor:
    """Loss of every position in nats, [T] fp32; 0 where the label is IGNORE."""
    losses_T = torch.zeros(len(labels_T), dtype=torch.float32, device=x_TD.device)
    for index_m in _chunks(labels_T, head_VD.shape[0]):
        losses_T[index_m] = _losses(x_TD[index_m], head_VD, labels_T[index_m], buffers)[0]
    return losses_T


def _chunks(labels_T: Tensor, vocab_size: int) -> tuple[Tensor, ...]:
    scored = (labels_T != IGNORE).nonzero().squeeze(1)
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    return torch.split(scored, size) if len(scored) else ()


def _losses(
    x_mD: Tensor, head_VD: Tensor, labels_m: Tensor, buffers: Buffers
) -> tuple[Tensor, Tensor]:
    """Losses [m] and probabilities [m, V], both fp32.

    log-sum-exp is the largest logit minus the log of its own probability: exact in fp32, finite
    however unlikely the label, and no further pass over the vocabulary.
    """
    size = (len(x_mD), len(head_VD))
    logits_mV = torch.mm(x_mD, head_VD.t(), out=buffers.take("logits", *size))
    top_m1, where_m1 = logits_mV.max(dim=-1, keepdim=True)
    label_m1 = logits_mV.gather(1, labels_m[:, None])
    p_mV = buffers.take("probabilities", *size, dtype=torch.float32)
    torch.softmax(logits_mV, dim=-1, dtype=torch.float32, out=p_mV)
    lse_m1 = top_m1 - p_mV.gather(1, where_m1).log()
    return (lse_m1 - label_m1).squeeze(1), p_mV
