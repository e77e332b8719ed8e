"""One decoder layer: forward, and an exact backward over the tensors that the forward saved.

    x -> norm -> q k v -> rope -> attention -> o -> + x = middle
    middle -> norm -> gate up -> swiglu -> down -> + middle

Shapes: T tokens, D hidden size, K key/value heads, G query heads per key/value head, H head width,
I intermediate size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repotune.kernels import Buffers, Ops
from repotune.kernels.attention import Span
from repotune.model.linear import StackedLinear
from repotune.records import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class RowContext:
    """What every layer needs to know of the row it works on."""

    cos_T1h: Tensor
    sin_T1h: Tensor
    documents: tuple[slice, ...]
    """Attention never crosses from one document to another."""
    adapted: bool = True
    seed: int | None = None
    """Of the dropout masks; None: no dropout."""


@dataclass(slots=True, kw_only=True)
class LayerCache:
    """Keys and values of the tokens already seen, [K, capacity, H]; for generation only."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def extend(self, k_KTH: Tensor, v_KTH: Tensor) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values so far."""
        stop = self.length + k_KTH.shape[1]
        self.keys[:, self.length : stop] = k_KTH
        self.values[:, self.length : stop] = v_KTH
        self.length = stop
        return self.keys[:, :stop], self.values[:, :stop]


@dataclass(slots=True, kw_only=True)
class Saved:
    """What the backward of a layer reads; ``*_in`` are padded inputs of the linears."""

    x: Tensor
    attention_rstd: Tensor
    qkv_in: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    attention_out: Tensor
    o_in: Tensor
    middle: Tensor
    mlp_rstd: Tensor
    gate_up_in: Tensor
    gate_up: Tensor
    down_in: Tensor


class Layer:
    """Norms, the four stacked linears, and how they are wired."""

    def __init__(
        self,
        shape: Shape,
        *,
        ops: Ops,
        attention_norm: Tensor,
        mlp_norm: Tensor,
        qkv: StackedLinear,
        o: StackedLinear,
        gate_up: StackedLinear,
        down: StackedLinear,
    ) -> None:
        self.shape, self.ops = shape, ops
        self.attention_norm, self.mlp_norm = attention_norm, mlp_norm
        self.qkv, self.o, self.gate_up, self.down = qkv, o, gate_up, down

    @property
    def linears(self) -> tuple[StackedLinear, ...]:
        """The four matmuls in the order in which they are applied."""
        return self.qkv, self.o, self.gate_up, self.down

    def forward(
        self, x_TD: Tensor, row: RowContext, buffers: Buffers, cache: LayerCache | None = None
    ) -> tuple[Tensor, Saved]:
        """Output of the layer, [T, D], and what its backward needs, which lies in ``buffers``."""
        saved = self.forward_to_down(x_TD, row, buffers, cache)
        y_TD = torch.empty_like(x_TD)
        self.down.multiply(saved.down_in, adapted=row.adapted, out=y_TD)
        return y_TD.add_(saved.middle), saved

    def forward_to_down(
        self, x_TD: Tensor, row: RowContext, buffers: Buffers, cache: LayerCache | None = None
    ) -> Saved:
        """All of the forward but the last matmul: what a recompute needs, and no more."""
        ops, eps, tokens = self.ops, self.shape.rms_norm_eps, len(x_TD)

        qkv_in = _padded(buffers, "qkv_in", tokens, self.qkv)
        attention_rstd = ops.rms_norm(x_TD, self.attention_norm, eps, _x(self.qkv, qkv_in))
        q, k, v = self._queries_keys_values(qkv_in, row, buffers)
        out = self._attention(q, k, v, row, cache, out=buffers.take("attention_out", *q.shape))

        o_in = _padded(buffers, "o_in", tokens, self.o)
        self._as_heads(_x(self.o, o_in)).copy_(out)
        middle = buffers.take("middle", *x_TD.shape)
        self.o.forward(o_in, adapted=row.adapted, seed=_seed(row, 1), out=middle).add_(x_TD)

        gate_up_in = _padded(buffers, "gate_up_in", tokens, self.gate_up)
        mlp_rstd = ops.rms_norm(middle, self.mlp_norm, eps, _x(self.gate_up, gate_up_in))
        gate_up = buffers.take("gate_up", tokens, len(self.gate_up.weight))
        self.gate_up.forward(gate_up_in, adapted=row.adapted, seed=_seed(row, 2), out=gate_up)
        down_in = _padded(buffers, "down_in", tokens, self.down)
        ops.swiglu(gate_up, _x(self.down, down_in))
        if row.adapted:
            self.down.fill_tail(down_in, seed=_seed(row, 3))
        return Saved(
            x=x_TD, attention_rstd=attention_rstd, qkv_in=qkv_in, q=q, k=k, v=v,
            attention_out=out, o_in=o_in, middle=middle, mlp_rstd=mlp_rstd,
            gate_up_in=gate_up_in, gate_up=gate_up, down_in=down_in,
        )  # fmt: skip

    def backward(self, dy_TD: Tensor, saved: Saved, row: RowContext) -> Tensor:
        """Gradient with respect to the layer's input, [T, D]; adds to the LoRA gradients."""
        ops = self.ops
        da = self.down.backward(dy_TD, saved.down_in, seed=_seed(row, 3))
        dgate_up = ops.swiglu_backward(da, saved.gate_up)
        dnorm = self.gate_up.backward(dgate_up, saved.gate_up_in, seed=_seed(row, 2))
        dmiddle = ops.rms_norm_backward(dnorm, saved.middle, self.mlp_norm, saved.mlp_rstd)
        dmiddle += dy_TD

        dout = self.o.backward(dmiddle, saved.o_in, seed=_seed(row, 1))
        dqkv = self._attention_backward(self._as_heads(dout).contiguous(), saved, row)
        dnorm = self.qkv.backward(dqkv, saved.qkv_in, seed=_seed(row, 0))
        dx = ops.rms_norm_backward(dnorm, saved.x, self.attention_norm, saved.attention_rstd)
        return dx.add_(dmiddle)

    def _queries_keys_values(
        self, qkv_in: Tensor, row: RowContext, buffers: Buffers
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q and k, and v; copies, since views would keep all of qkv in memory."""
        qkv = qkv_in.new_empty(len(qkv_in), len(self.qkv.weight))
        self.qkv.forward(qkv_in, adapted=row.adapted, seed=_seed(row, 0), out=qkv)
        q, k, v = self._split(qkv)
        q_out, k_out = buffers.take("q", *q.shape), buffers.take("k", *k.shape)
        self._rotate(q, k, row.cos_T1h, row.sin_T1h, q_out, k_out)
        return q_out, k_out, buffers.take("v", *v.shape).copy_(v)

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, row: RowContext, cache: LayerCache | None,
        *, out: Tensor,
    ) -> Tensor:  # fmt: skip
        """Attention within each document, or against the cache; [K, T, G, H]."""
        if cache is not None:
            span = Span(cache.length, self.shape.sliding_window)
            self.ops.attention(q, *cache.extend(k, v), span, out)
            return out
        span = Span(0, self.shape.sliding_window)
        for d in row.documents:
            self.ops.attention(q[:, d], k[:, d], v[:, d], span, out[:, d])
        return out

    def _attention_backward(self, dout_KTGH: Tensor, saved: Saved, row: RowContext) -> Tensor:
        """Through attention and rope, back to the output of the stacked q/k/v, [T, O]."""
        span = Span(0, self.shape.sliding_window)
        dqkv = dout_KTGH.new_empty(dout_KTGH.shape[1], len(self.qkv.weight))
        dq_out, dk_out, dv_out = self._split(dqkv)
        for d in row.documents:
            dq, dk, dv = self.ops.attention_backward(
                dout_KTGH[:, d], saved.q[:, d], saved.k[:, d], saved.v[:, d],
                saved.attention_out[:, d], span,
            )  # fmt: skip
            cos, sin = row.cos_T1h[d], row.sin_T1h[d]
            self._rotate(dq, dk, cos, -sin, dq_out[:, d], dk_out[:, d])
            dv_out[:, d] = dv
        return dqkv

    def _split(self, qkv_TO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of q [K, T, G, H], k [K, T, H] and v [K, T, H] in the stacked output."""
        kv, head = self.shape.num_key_value_heads, self.shape.head_dim
        q_width = self.shape.num_attention_heads * head
        q, k, v = torch.split(qkv_TO, [q_width, kv * head, kv * head], dim=1)
        heads = (len(qkv_TO), kv, head)
        return self._as_heads(q), k.view(heads).transpose(0, 1), v.view(heads).transpose(0, 1)

    def _as_heads(self, q_TO: Tensor) -> Tensor:
        """[T, K*G*H] seen as [K, T, G, H]."""
        kv, head = self.shape.num_key_value_heads, self.shape.head_dim
        group = self.shape.num_attention_heads // kv
        return torch.unflatten(q_TO, 1, (kv, group, head)).transpose(0, 1)

    def _rotate(
        self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, q_out: Tensor, k_out: Tensor
    ) -> None:
        self.ops.rope(q, cos, sin, q_out)
        self.ops.rope(k, cos.squeeze(1), sin.squeeze(1), k_out)


def _padded(buffers: Buffers, name: str, tokens: int, linear: StackedLinear) -> Tensor:
    """A linear's input buffer, [T, K + R]: x goes into the first K columns."""
    return buffers.take(name, tokens, linear.weight.shape[1])


def _x(linear: StackedLinear, padded: Tensor) -> Tensor:
    return padded[:, : linear.width]


def _seed(row: RowContext, linear: int) -> int | None:
    return None if row.seed is None else row.seed * 4 + linear
