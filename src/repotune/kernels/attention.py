"""Causal grouped-query attention by batched matmuls, one block of queries at a time.

Shapes: K key/value heads, G query heads per key/value head, T tokens, H head width, n queries of a
block, e keys that the block sees; in generation B sequences and S keys.

Query heads of a group are rows of one matmul, so keys and values are never repeated, and only
the blocks under the diagonal are computed. On CPUs without matrix units of their own for
attention this is three times as fast as ``scaled_dot_product_attention`` in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

QUERY_BLOCK = 128
"""Queries of a block: small enough to skip most of the upper triangle, large enough for matmul."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Where a row's documents lie; attention never crosses from one to another."""

    slices: tuple[slice, ...]
    bounds: Tensor
    """[documents + 1] int32 on the model's device: where each begins, and the row's length."""
    longest: int
    window: int | None
    """A query sees this many positions, itself included; None: all of its document before it."""

    @property
    def are_equal(self) -> bool:
        """Whether all have the same length."""
        last: int = self.slices[-1].stop
        return len(self.slices) * self.longest == last


@dataclass(frozen=True, slots=True)
class Attended:
    """What attention gives, and what its backward reads beside q, k and v."""

    out: Tensor
    """[K, T, G, H], any strides."""
    state: tuple[Tensor, ...] = ()


def attention(
    q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, documents: Documents, out_KTGH: Tensor
) -> Attended:
    """Write attention within each document, under the causal mask, into ``out`` of any strides."""
    for d in documents.slices:
        attend(q_KTGH[:, d], k_KTH[:, d], v_KTH[:, d], documents.window, out_KTGH[:, d])
    return Attended(out_KTGH)


def attention_backward(
    do_KTGH: Tensor, q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, attended: Attended,
    documents: Documents,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of ``attend`` with respect to q, k and v, each of its tensor's shape."""
    dq, dk, dv = (torch.empty_like(one) for one in (q_KTGH, k_KTH, v_KTH))
    do_KTGH = do_KTGH.contiguous()
    for d in documents.slices:
        dq[:, d], dk[:, d], dv[:, d] = attend_backward(
            do_KTGH[:, d], q_KTGH[:, d], k_KTH[:, d], v_KTH[:, d], attended.out[:, d],
            documents.window,
        )  # fmt: skip
    return dq, dk, dv


def attend(
    q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, window: int | None, out_KTGH: Tensor
) -> None:
    """Write softmax(q k^T / sqrt(H)) v into ``out``, under the causal mask.

    A query sees ``window`` positions, itself included; None: all before it.
    """
    q_KTGH = q_KTGH * q_KTGH.shape[-1] ** -0.5
    for rows, keys in _blocks(q_KTGH.shape[1], window):
        p = _probabilities(q_KTGH[:, rows], k_KTH[:, keys], rows, keys, window)
        block = torch.bmm(p, v_KTH[:, keys])
        out_KTGH[:, rows] = block.view_as(out_KTGH[:, rows])


def attend_step(
    q_KBGH: Tensor, keys_BKSH: Tensor, values_BKSH: Tensor, bias_BS: Tensor, out_KBGH: Tensor
) -> None:
    """Write the attention of one query of each sequence to its own keys, whose ``bias`` is 0 where
    it sees them and -inf elsewhere, in the precision of the others.

    The query heads of a group stand in the place of queries, so keys are never repeated.
    """
    out_BKGH = functional.scaled_dot_product_attention(
        q_KBGH.transpose(0, 1), keys_BKSH, values_BKSH, attn_mask=bias_BS[:, None, None]
    )
    out_KBGH.copy_(out_BKGH.transpose(0, 1))


def for_masks(device: torch.device) -> AbstractContextManager[None]:
    """Where ``attend_step`` is called on ``device``, the kernels to choose from: for each new size
    cuDNN's attention is built anew, which takes longer than the step."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def attend_backward(
    do_KTGH: Tensor, q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor, out_KTGH: Tensor,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of ``attend`` with respect to q, k and v; probabilities are computed again.

    With P the probabilities: dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)), dQ = dS K,
    dK = dS^T Q (arXiv 2205.14135, appendix B.2).
    """
    kv_heads, _, group, width = q_KTGH.shape
    scale = width**-0.5
    q_KTGH = q_KTGH * scale
    dq = torch.empty_like(q_KTGH)
    dk = torch.zeros_like(k_KTH, memory_format=torch.contiguous_format)
    dv = torch.zeros_like(v_KTH, memory_format=torch.contiguous_format)
    products_KTGH = do_KTGH.to(torch.float32, copy=True).mul_(out_KTGH)
    delta_KTG1 = products_KTGH.sum(-1, keepdim=True).to(q_KTGH.dtype)
    del products_KTGH
    for rows, keys in _blocks(q_KTGH.shape[1], window):
        n = (rows.stop - rows.start) * group
        q = q_KTGH[:, rows].reshape(kv_heads, n, width)
        do = do_KTGH[:, rows].reshape(kv_heads, n, width)
        p = _probabilities(q_KTGH[:, rows], k_KTH[:, keys], rows, keys, window)
        dv[:, keys] += torch.bmm(p.transpose(1, 2), do)
        ds = torch.bmm(do, v_KTH[:, keys].transpose(1, 2))
        ds.sub_(delta_KTG1[:, rows].reshape(kv_heads, n, 1)).mul_(p)
        dq[:, rows] = torch.bmm(ds, k_KTH[:, keys]).view_as(dq[:, rows])
        dk[:, keys] += torch.bmm(ds.transpose(1, 2), q)
        del p, ds  # or they would lie beside the next block's, which are the largest
    return dq.mul_(scale), dk, dv


def _blocks(queries: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, each with the range of keys that it can see."""
    for start in range(0, queries, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, queries)
        first = 0 if window is None else max(0, start - window + 1)
        yield slice(start, stop), slice(first, stop)


def _probabilities(
    q_KnGH: Tensor, k_KeH: Tensor, rows: slice, keys: slice, window: int | None
) -> Tensor:
    """Attention weights of a block, [K, n*G, e]; rows of the same query stand together.

    ``q`` comes scaled. Without a window only the last n keys of a block can lie in the future, so
    only they are masked.
    """
    kv_heads, n, group, width = q_KnGH.shape
    s = torch.bmm(q_KnGH.reshape(kv_heads, n * group, width), k_KeH.transpose(1, 2))
    masked = n if window is None else k_KeH.shape[1]
    key = torch.arange(keys.stop - masked, keys.stop, device=s.device)
    query = torch.arange(rows.start, rows.stop, device=s.device)[:, None]
    hidden_nm = key > query
    if window is not None:
        hidden_nm |= key <= query - window
    s.view(kv_heads, n, group, -1)[..., -masked:].masked_fill_(hidden_nm[:, None, :], float("-inf"))
    return torch.softmax(s, dim=-1)
