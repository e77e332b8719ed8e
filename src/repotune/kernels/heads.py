"""How the output of the stacked q/k/v falls into heads, and rotary positions on them.

Shapes: T tokens, K key/value heads, G query heads per key/value head, H head width, h half of it,
O = (K * G + 2 * K) * H columns of the stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repotune.kernels.buffers import Buffers
from repotune.kernels.plain import rope


@dataclass(frozen=True, slots=True)
class Heads:
    """The counts K, G and the width H."""

    kv: int
    group: int
    width: int

    @property
    def queries(self) -> int:
        """Columns of all query heads."""
        return self.kv * self.group * self.width

    @property
    def keys(self) -> int:
        """Columns of all key heads, which are as many as those of the value heads."""
        return self.kv * self.width

    def split(self, qkv_TO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of q [K, T, G, H], k [K, T, H] and v [K, T, H]."""
        q, k, v = torch.split(qkv_TO, [self.queries, self.keys, self.keys], dim=1)
        size = (len(qkv_TO), self.kv, self.width)
        return self.of_queries(q), k.view(size).transpose(0, 1), v.view(size).transpose(0, 1)

    def of_queries(self, q_TO: Tensor) -> Tensor:
        """[T, K*G*H] seen as [K, T, G, H]."""
        return torch.unflatten(q_TO, 1, (self.kv, self.group, self.width)).transpose(0, 1)


def rotate(
    qkv_TO: Tensor, cos_T1h: Tensor, sin_T1h: Tensor, heads: Heads, buffers: Buffers
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated q [K, T, G, H] and k [K, T, H], and v: copies, contiguous by head for ``bmm``."""
    q, k, v = heads.split(qkv_TO)
    q_out, k_out = buffers.take("q", *q.shape), buffers.take("k", *k.shape)
    rope(q, cos_T1h, sin_T1h, q_out)
    rope(k, cos_T1h.squeeze(1), sin_T1h.squeeze(1), k_out)
    return q_out, k_out, buffers.take("v", *v.shape).copy_(v)


def rotate_back(
    dq: Tensor, dk: Tensor, dv: Tensor, cos_T1h: Tensor, sin_T1h: Tensor, heads: Heads,
    dqkv_TO: Tensor,
) -> None:  # fmt: skip
    """Write the gradient of the stack's output, given those of q, k and v."""
    dq_out, dk_out, dv_out = heads.split(dqkv_TO)
    rope(dq, cos_T1h, -sin_T1h, dq_out)
    rope(dk, cos_T1h.squeeze(1), -sin_T1h.squeeze(1), dk_out)
    dv_out.copy_(dv)
