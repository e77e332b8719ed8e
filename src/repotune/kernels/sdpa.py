"""Attention through PyTorch's ``scaled_dot_product_attention``, one document at a time.

For GPUs that the fused kernels are not for: before Ampere PyTorch takes its memory-efficient kernel
there, and plain matmuls where that cannot be used. Only the public function is called, since what
lies under it differs by card and build; so the backward runs the forward once more.

Shapes: K key/value heads, G query heads per key/value head, T tokens of the row, S of a document,
H head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from repotune.kernels.attention import Attended, Documents, attend, attend_backward


def sdpa_attention(
    q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, documents: Documents, out_KTGH: Tensor
) -> Attended:
    """See ``attention.attention``."""
    for d in documents.slices:
        q, k, v = q_KTGH[:, d], k_KTH[:, d], v_KTH[:, d]
        if _sees_all(d, documents):
            out_KTGH[:, d] = _attend(q, k, v)
        else:
            attend(q, k, v, documents.window, out_KTGH[:, d])
    return Attended(out_KTGH)


def sdpa_attention_backward(
    do_KTGH: Tensor, q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, attended: Attended,
    documents: Documents,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See ``attention.attention_backward``."""
    dq, dk, dv = (torch.empty_like(one) for one in (q_KTGH, k_KTH, v_KTH))
    for d in documents.slices:
        q, k, v, do = q_KTGH[:, d], k_KTH[:, d], v_KTH[:, d], do_KTGH[:, d]
        if _sees_all(d, documents):
            dq[:, d], dk[:, d], dv[:, d] = _attend_backward(do, q, k, v)
        else:
            dq[:, d], dk[:, d], dv[:, d] = attend_backward(
                do.contiguous(), q, k, v, attended.out[:, d], documents.window
            )
    return dq, dk, dv


def _sees_all(document: slice, documents: Documents) -> bool:
    """Whether no window hides any of the document, so that the causal mask is all there is."""
    length: int = document.stop - document.start
    return documents.window is None or length <= documents.window


def _attend(q_KSGH: Tensor, k_KSH: Tensor, v_KSH: Tensor) -> Tensor:
    """Causal attention, [K, S, G, H]; a key/value head stands in the place of a batch."""
    q_KGSH = q_KSGH.transpose(1, 2)
    k_KGSH, v_KGSH = (one.unsqueeze(1).expand_as(q_KGSH) for one in (k_KSH, v_KSH))
    out_KGSH = functional.scaled_dot_product_attention(q_KGSH, k_KGSH, v_KGSH, is_causal=True)
    return out_KGSH.transpose(1, 2)


def _attend_backward(
    do_KSGH: Tensor, q_KSGH: Tensor, k_KSH: Tensor, v_KSH: Tensor
) -> tuple[Tensor, ...]:
    leaves = [one.detach().requires_grad_() for one in (q_KSGH, k_KSH, v_KSH)]
    with torch.enable_grad():
        out_KSGH = _attend(*leaves)
    return torch.autograd.grad(out_KSGH, leaves, do_KSGH)
