"""Attention through the fused kernels that PyTorch brings: cuDNN's, or flash attention.

cuDNN's is faster by 1.7 times where every document has the same length, and cannot be asked for
several lengths; flash attention can. (Compiled FlexAttention is no faster than flash on rows of
several documents: 1.3 against 1.1 ms on an H100, 15 documents in 8,192 tokens.) Neither writes
where it is told to, so that its output is copied; cuDNN's backward reads it there without a copy
if the gradient has the same strides.

Shapes: T tokens, K key/value heads, G query heads per key/value head, N = K * G, H head width,
B documents of S tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repotune.kernels.attention import Attended, Documents
from repotune.kernels.triton.elementwise import copy_rows

_aten = torch.ops.aten
CUDNN_LEAST = 128
"""cuDNN refuses documents of one token, and gains nothing on short ones."""


def flash_attention(
    q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, documents: Documents, out_KTGH: Tensor
) -> Attended:
    """See ``attention.attention``; its backward is deterministic where torch is told to be."""
    q_TNH = _by_token(q_KTGH)
    out, lse, rng, unused, _ = _aten._flash_attention_forward(
        q_TNH, k_KTH.transpose(0, 1), v_KTH.transpose(0, 1), documents.bounds, documents.bounds,
        documents.longest, documents.longest, 0.0, True, False, **_window(documents),
    )  # fmt: skip
    return Attended(_put(out, out_KTGH), (lse, rng, unused))


def flash_attention_backward(
    do_KTGH: Tensor, q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, attended: Attended,
    documents: Documents,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See ``attention.attention_backward``."""
    lse, rng, unused = attended.state
    dq, dk, dv = _aten._flash_attention_backward(
        _by_token(do_KTGH), _by_token(q_KTGH), k_KTH.transpose(0, 1), v_KTH.transpose(0, 1),
        _by_token(attended.out), lse, documents.bounds, documents.bounds, documents.longest,
        documents.longest, 0.0, True, rng, unused, **_window(documents),
    )  # fmt: skip
    return _by_head(dq, q_KTGH), dk.transpose(0, 1), dv.transpose(0, 1)


def fastest_attention(
    q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, documents: Documents, out_KTGH: Tensor
) -> Attended:
    """See ``attention.attention``; cuDNN's where it can be used."""
    if not _suits_cudnn(q_KTGH, documents):
        return flash_attention(q_KTGH, k_KTH, v_KTH, documents, out_KTGH)
    q, k, v = (_by_document(one, documents) for one in _by_tokens(q_KTGH, k_KTH, v_KTH))
    out, lse, cu_q, cu_k, max_q, max_k, seed, offset, _ = _aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, True, False
    )
    del cu_q, cu_k, max_q, max_k
    return Attended(_put(_flat(out), out_KTGH), (lse, seed, offset))


def fastest_attention_backward(
    do_KTGH: Tensor, q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, attended: Attended,
    documents: Documents,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See ``attention.attention_backward``."""
    if not _suits_cudnn(q_KTGH, documents):
        return flash_attention_backward(do_KTGH, q_KTGH, k_KTH, v_KTH, attended, documents)
    lse, seed, offset = attended.state
    q, k, v = (_by_document(one, documents) for one in _by_tokens(q_KTGH, k_KTH, v_KTH))
    do = _by_document(_by_token(do_KTGH), documents)
    out = _by_document(_by_token(attended.out), documents)
    longest = documents.longest
    dq, dk, dv = _aten._scaled_dot_product_cudnn_attention_backward(
        do, q, k, v, out, lse, seed, offset, None, None, None, longest, longest, 0.0, True
    )
    return (
        _by_head(_flat(dq), q_KTGH),
        _flat(dk).transpose(0, 1),
        _flat(dv).transpose(0, 1),
    )


def _suits_cudnn(q_KTGH: Tensor, documents: Documents) -> bool:
    is_plain = documents.window is None and q_KTGH.shape[2] == 1 and q_KTGH.shape[3] <= 128
    return is_plain and documents.are_equal and documents.longest >= CUDNN_LEAST


def _by_tokens(q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _by_token(q_KTGH), k_KTH.transpose(0, 1), v_KTH.transpose(0, 1)


def _by_token(x_KTGH: Tensor) -> Tensor:
    """[T, N, H], without a copy: heads lie side by side."""
    return torch.flatten(x_KTGH.transpose(0, 1), 1, 2)


def _put(x_TNH: Tensor, out_KTGH: Tensor) -> Tensor:
    """Write into ``out``, whose rows are tokens as those of x; return it."""
    copy_rows(torch.flatten(x_TNH, 1), torch.flatten(_by_token(out_KTGH), 1))
    return out_KTGH


def _by_head(x_TNH: Tensor, like_KTGH: Tensor) -> Tensor:
    kv, _, group, _ = like_KTGH.shape
    return torch.unflatten(x_TNH, 1, (kv, group)).transpose(0, 1)


def _by_document(x_TNH: Tensor, documents: Documents) -> Tensor:
    """[B, N, S, H]"""
    return torch.unflatten(x_TNH, 0, (-1, documents.longest)).transpose(1, 2)


def _flat(x_BNSH: Tensor) -> Tensor:
    """[T, N, H]"""
    return x_BNSH.transpose(1, 2).flatten(0, 1)


def _window(documents: Documents) -> dict[str, int]:
    if documents.window is None:
        return {}
    return {"window_size_left": documents.window - 1, "window_size_right": 0}
