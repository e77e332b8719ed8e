"""One decoder layer: forward, and an exact backward over the tensors that the forward saved.

    x -> norm -> q k v -> rope -> attention -> o -> + x = middle
    middle -> norm -> gate up -> swiglu -> down -> + middle

What is saved is a policy (``records.Saving``); what is not, the backward computes again. Norms and
the product of gate and up are never saved, and the output of ``down`` is never computed again.

Shapes: T tokens, D hidden size, K key/value heads, G query heads per key/value head, H head width,
I intermediate size, O outputs of a linear, R ranks of a linear's adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from repotune.kernels import Attended, Buffers, Documents, Heads, Ops
from repotune.model.cache import Attend
from repotune.model.linear import StackedLinear
from repotune.records import Saving, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class RowContext:
    """What every layer needs to know of the row it works on."""

    cos_T1h: Tensor
    sin_T1h: Tensor
    documents: Documents | None
    """None where a cache attends: nothing of such a row is kept for a backward."""
    adapted: bool = True
    seed: int | None = None
    """Of the dropout masks; None: no dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projected:
    """The rotated q and k, v, and the adapters' tail of their linear."""

    q: Tensor
    k: Tensor
    v: Tensor
    tail: Tensor
    rstd: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Attention's output as the padded input of ``o``, and the residual after it."""

    o_in: Tensor
    state: tuple[Tensor, ...]
    """Of ``kernels.Attended``."""
    middle: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """The outputs of gate and up, [T, 2 * I], and the adapters' tails of the MLP's linears."""

    gate_up: Tensor
    tail: Tensor
    down_tail: Tensor
    rstd: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a layer keeps between forward and backward; what is None is computed again."""

    x: Tensor
    projected: Projected | None = None
    outputs: Outputs | None = None
    gated: Gated | None = None


def map_saved(saved: Saved, change: Callable[[Tensor], Tensor]) -> Saved:
    """The record with ``change`` applied to each of its tensors, in a fixed order."""
    projected, outputs, gated = saved.projected, saved.outputs, saved.gated
    if projected is not None:
        projected = Projected(
            q=change(projected.q), k=change(projected.k), v=change(projected.v),
            tail=change(projected.tail), rstd=change(projected.rstd),
        )  # fmt: skip
    if outputs is not None:
        outputs = Outputs(
            o_in=change(outputs.o_in), state=tuple(change(one) for one in outputs.state),
            middle=change(outputs.middle),
        )  # fmt: skip
    if gated is not None:
        gated = Gated(
            gate_up=change(gated.gate_up), tail=change(gated.tail),
            down_tail=change(gated.down_tail), rstd=change(gated.rstd),
        )  # fmt: skip
    return Saved(x=change(saved.x), projected=projected, outputs=outputs, gated=gated)


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
        kv = shape.num_key_value_heads
        self.heads = Heads(kv, shape.num_attention_heads // kv, shape.head_dim)
        self.ops, self.eps = ops, shape.rms_norm_eps
        self.attention_norm, self.mlp_norm = attention_norm, mlp_norm
        self.qkv, self.o, self.gate_up, self.down = qkv, o, gate_up, down

    @property
    def linears(self) -> tuple[StackedLinear, ...]:
        """The four matmuls in the order in which they are applied."""
        return self.qkv, self.o, self.gate_up, self.down

    def expand(self, wanted: bool) -> bool:
        """Keep the weights in 16 bits, or no longer (``LayerPolicy``); whether that is a change."""
        changes = [linear.expand(wanted) for linear in self.linears]
        return any(changes)

    def forward(
        self, x_TD: Tensor, row: RowContext, *, saving: Saving, kept: Buffers, scratch: Buffers,
        out: Tensor, residual: Tensor | None = None, attend: Attend | None = None,
    ) -> tuple[Saved, Tensor]:  # fmt: skip
        """Write what the MLP adds into ``out`` [T, D]; return what is saved, and ``middle``.

        The layer's output is their sum, and it is the next layer that adds them, in its norm:
        ``residual`` is the ``middle`` of the layer below, which is added to ``x`` in place. What
        ``saving`` says lies in ``kept``; ``scratch`` is for what nobody reads after the next layer.
        ``attend`` is for generation: attention to what a cache holds, too.
        """
        for_q = kept if saving in ("all", "attention") else scratch
        # Without being kept, q, k and v are done with before the MLP's product is there.
        place = "qkv" if for_q is kept else "product"
        projected = self._project(x_TD, row, for_q, scratch, place, residual)
        for_outputs = kept if saving != "input" else scratch
        outputs = self._attend(projected, row, for_outputs, attend)
        for_gated = kept if saving == "all" else scratch
        gated, product = self._gate(outputs.middle, row, for_gated, scratch, x_TD)
        self.down.multiply(product, adapted=row.adapted, out=out)
        saved = Saved(
            x=x_TD,
            projected=projected if for_q is kept else None,
            outputs=outputs if for_outputs is kept else None,
            gated=gated if for_gated is kept else None,
        )
        return saved, outputs.middle

    def backward(
        self, dy_TDR: Tensor, saved: Saved, row: RowContext, *, scratch: Buffers, out: Tensor
    ) -> None:
        """Write the gradient with respect to the layer's input; add to the LoRA gradients.

        ``dy_TDR`` and ``out`` are padded for the adapters of ``o`` and ``down``; ``out`` may be
        the same tensor. Saved tensors are written over.
        """
        projected, outputs, residual = saved.projected, saved.outputs, None
        if outputs is None:
            projected = self._project(saved.x, row, scratch, scratch, "qkv")
            outputs = self._attend(projected, row, scratch, None)
            residual = saved.x
        gated = saved.gated or self._gate(outputs.middle, row, scratch, scratch, residual)[0]
        self._mlp_backward(dy_TDR, outputs.middle, gated, row, scratch)
        if projected is None:
            projected = self._project(saved.x, row, scratch, scratch, "product")
        self._attention_backward(dy_TDR, saved.x, projected, outputs, row, scratch, out)

    def _project(
        self, x_TD: Tensor, row: RowContext, kept: Buffers, scratch: Buffers, place: str,
        residual: Tensor | None = None,
    ) -> Projected:  # fmt: skip
        """q, k and v, of which ``place`` is the buffer's name."""
        normed = _padded(scratch, "normed", len(x_TD), self.qkv)
        rstd = self.ops.rms_norm(
            x_TD, self.attention_norm, self.eps, self.qkv.x_of(normed), add=residual, total=x_TD
        )
        buffers = kept if self.ops.rotates_in_place else scratch
        qkv = buffers.take(place, len(x_TD), self.qkv.outputs)
        self.qkv.forward(normed, adapted=row.adapted, seed=_seed(row, 0), out=qkv)
        q, k, v = self.ops.rotate(qkv, row.cos_T1h, row.sin_T1h, self.heads, kept)
        tail = self._tail(row, kept, "qkv_tail", self.qkv, normed)
        return Projected(q=q, k=k, v=v, tail=tail, rstd=rstd)

    def _attend(
        self, projected: Projected, row: RowContext, kept: Buffers, attend: Attend | None
    ) -> Outputs:
        """Attention through ``o``; ``middle`` is without the residual, which ``_gate`` adds."""
        q, k, v = projected.q, projected.k, projected.v
        tokens = q.shape[1]
        o_in = _padded(kept, "o_in", tokens, self.o)
        attended = Attended(self.heads.of_queries(self.o.x_of(o_in)))
        if attend is None:
            assert row.documents is not None
            attended = self.ops.attention(q, k, v, row.documents, attended.out)
        else:
            attend(q, k, v, attended.out)
        middle = kept.take("middle", tokens, self.o.outputs)
        self.o.forward(o_in, adapted=row.adapted, seed=_seed(row, 1), out=middle)
        return Outputs(o_in=o_in, state=attended.state, middle=middle)

    def _gate(
        self, middle_TD: Tensor, row: RowContext, kept: Buffers, scratch: Buffers,
        residual: Tensor | None,
    ) -> tuple[Gated, Tensor]:  # fmt: skip
        """The outputs of gate and up, and the padded input of ``down``, in ``scratch``.

        ``residual`` is added to ``middle``, in place; None: it has been.
        """
        tokens = len(middle_TD)
        normed = _padded(scratch, "normed", tokens, self.gate_up)
        rstd = self.ops.rms_norm(
            middle_TD, self.mlp_norm, self.eps, self.gate_up.x_of(normed),
            add=residual, total=middle_TD,
        )  # fmt: skip
        gate_up = _gradient(kept, "gate_up", tokens, self.gate_up)
        both = gate_up[:, : self.gate_up.outputs]
        self.gate_up.forward(normed, adapted=row.adapted, seed=_seed(row, 2), out=both)
        tail = self._tail(row, kept, "gate_up_tail", self.gate_up, normed)
        product = _padded(scratch, "product", tokens, self.down)
        self.ops.swiglu(both, self.down.x_of(product))
        if row.adapted:
            self.down.fill_tail(product, seed=_seed(row, 3))
        down_tail = self._tail(row, kept, "down_tail", self.down, product)
        return Gated(gate_up=gate_up, tail=tail, down_tail=down_tail, rstd=rstd), product

    def _mlp_backward(
        self, dy_TDR: Tensor, middle_TD: Tensor, gated: Gated, row: RowContext, scratch: Buffers
    ) -> None:
        """From the gradient of the layer's output to that of ``middle``, in place."""
        tokens = len(middle_TD)
        product = scratch.take("product", tokens, self.down.width)
        self.down.backward(dy_TDR, gated.down_tail, seed=_seed(row, 3), out=product)
        both = gated.gate_up[:, : self.gate_up.outputs]
        self.ops.swiglu_backward(product, both)
        self.down.backward_a(dy_TDR, product, seed=_seed(row, 3))
        dnormed = scratch.take("dnormed", tokens, self.gate_up.width)
        self.gate_up.backward(gated.gate_up, gated.tail, seed=_seed(row, 2), out=dnormed)
        norm = gated.rstd, self.mlp_norm
        self.gate_up.backward_a(gated.gate_up, middle_TD, seed=_seed(row, 2), norm=norm)
        dy_TD = self.down_gradient(dy_TDR)
        self.ops.rms_norm_backward(dnormed, middle_TD, self.mlp_norm, gated.rstd, dy_TD, dy_TD)

    def _attention_backward(
        self, dmiddle_TDR: Tensor, x_TD: Tensor, projected: Projected, outputs: Outputs,
        row: RowContext, scratch: Buffers, out: Tensor,
    ) -> None:  # fmt: skip
        tokens = len(x_TD)
        assert row.documents is not None
        # Of the strides of attention's output, see ``kernels.triton.attention``.
        dattended = self.o.x_of(_padded(scratch, "dnormed", tokens, self.o))
        self.o.backward(
            dmiddle_TDR, self.o.tail_of(outputs.o_in), seed=_seed(row, 1), out=dattended
        )
        attended_TO = self.o.x_of(outputs.o_in)
        self.o.backward_a(dmiddle_TDR, attended_TO, seed=_seed(row, 1))
        gradients = self.ops.attention_backward(
            self.heads.of_queries(dattended), projected.q, projected.k, projected.v,
            Attended(self.heads.of_queries(attended_TO), outputs.state), row.documents,
        )  # fmt: skip
        # In the place of gate and up, which are done with.
        dqkv = _gradient(scratch, "gate_up", tokens, self.qkv)
        stacked = dqkv[:, : self.qkv.outputs]
        self.ops.rotate_back(*gradients, row.cos_T1h, row.sin_T1h, self.heads, stacked)
        dnormed = scratch.take("dnormed", tokens, self.qkv.width)
        self.qkv.backward(dqkv, projected.tail, seed=_seed(row, 0), out=dnormed)
        norm = projected.rstd, self.attention_norm
        self.qkv.backward_a(dqkv, x_TD, seed=_seed(row, 0), norm=norm)
        self.ops.rms_norm_backward(
            dnormed, x_TD, self.attention_norm, projected.rstd,
            self.down_gradient(dmiddle_TDR), self.down_gradient(out),
        )  # fmt: skip

    def _tail(
        self, row: RowContext, buffers: Buffers, name: str, linear: StackedLinear, padded: Tensor
    ) -> Tensor:
        """A copy of a padded input's tail for the backward: where it lies is used again."""
        if row.documents is None:
            return linear.tail_of(padded)
        tail = buffers.take(name, len(padded), linear.ranks)
        self.ops.copy_columns(linear.tail_of(padded), tail)
        return tail

    def down_gradient(self, dy_TDR: Tensor) -> Tensor:
        """The gradient in a padded one of the hidden state, [T, D]."""
        return dy_TDR[:, : self.down.outputs]


def _padded(buffers: Buffers, name: str, tokens: int, linear: StackedLinear) -> Tensor:
    """A linear's input buffer, [T, K + R] or wider: x goes into the first K columns."""
    return buffers.take_padded(name, tokens, linear.width + linear.ranks)


def _gradient(buffers: Buffers, name: str, tokens: int, linear: StackedLinear) -> Tensor:
    """A linear's output with room for the gradient's tail, [T, O + R] or wider."""
    return buffers.take_padded(name, tokens, linear.outputs + linear.ranks)


def _seed(row: RowContext, linear: int) -> int | None:
    return None if row.seed is None else row.seed * 4 + linear
