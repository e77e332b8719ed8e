"""A frozen linear with LoRA folded into its matmuls; several linears of one input are one matmul.

Shapes: T tokens, K input width, O output width of all stacked modules, R sum of their ranks,
rounded up to a multiple of 8: matmuls are several times slower on rows that do not begin at 16
bytes. What R has more than the modules is zero.

The padded weight is ``[O + R, K + R]``: the frozen weight W, each module's B in columns of its
own behind it, scale * A in the rows below. An input is ``[x | t]`` with t = scale * x A^T, so that
one matmul gives x W^T + t B^T; a gradient is ``[dy | g]`` with g = dy B, so that one matmul gives
dy W + scale * g A. What is left of LoRA are products with R columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repotune.kernels import Ops
from repotune.kernels.nf4 import AdapterBlock
from repotune.model.frozen import FrozenWeight
from repotune.records import LoraSpec

RANK_MULTIPLE = 8
"""16 bytes of 16-bit numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One module inside a stack: its rows of the output, its columns of the tail."""

    name: str
    out: slice
    rank: slice | None
    """None: the module is not adapted."""


class StackedLinear:
    """q/k/v, or gate/up, or a single linear: frozen, with LoRA on the targeted modules.

    ``lora_a`` [sum of r, K] and ``lora_b`` (one [O_i, r] per adapted part) are the fp32 masters,
    ``grad_a`` and ``grad_b`` their gradients, which ``backward`` adds to. They lie in ``masters``
    and ``gradients``, flat tensors of ``lora_size`` numbers.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        weight: FrozenWeight,
        bias: Tensor | None,
        *,
        lora: LoraSpec,
        masters: Tensor,
        gradients: Tensor,
        generator: torch.Generator,
        ops: Ops,
    ) -> None:
        self._ops = ops
        self.scale, self.dropout = lora.scale, lora.dropout
        self.parts, self.bias, self._weight = parts, bias, weight
        self.compute_a = weight.compute_a
        self.ranks, self.width = self.compute_a.shape
        self.outputs = parts[-1].out.stop
        self.lora_a, self.lora_b = self._views(masters)
        self.grad_a, self.grad_b = self._views(gradients)
        self._gradients = self._blocks(self.grad_b)
        a = torch.empty(self.lora_a.shape, dtype=torch.float32)
        # PEFT's initialisation: kaiming_uniform(a=sqrt(5)) is uniform within 1 / sqrt(K); B is 0.
        a.uniform_(-(self.width**-0.5), self.width**-0.5, generator=generator)
        self.lora_a.copy_(a)
        for b in self.lora_b:
            b.zero_()
        self.refresh()

    def _views(self, flat: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A of all adapted parts and the B of each, one after another in ``flat``."""
        sizes = [(out.stop - out.start, rank.stop - rank.start) for out, rank in self._adapted()]
        ranks = sum(rank for _, rank in sizes)
        a, *rest = torch.split(flat, [ranks * self.width, *(n * rank for n, rank in sizes)])
        return a.view(ranks, self.width), [
            b.view(size) for b, size in zip(rest, sizes, strict=True)
        ]

    def masters(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, master weight, gradient) of every A and B, as views of this stack's tensors."""
        adapted = [part for part in self.parts if part.rank is not None]
        for part, b, grad_b in zip(adapted, self.lora_b, self.grad_b, strict=True):
            yield f"{part.name}.lora_A.weight", self.lora_a[part.rank], self.grad_a[part.rank]
            yield f"{part.name}.lora_B.weight", b, grad_b

    def refresh(self) -> None:
        """Bring what the matmuls read of A and B up to date with the master weights."""
        self._weight.refresh(self.lora_a * self.scale, self._blocks(self.lora_b))

    def expand(self, wanted: bool) -> bool:
        """See FrozenWeight."""
        return self._weight.expand(wanted)

    def forward(self, input_TKR: Tensor, *, adapted: bool, seed: int | None, out: Tensor) -> Tensor:
        """Output [T, O] for the x in the buffer; fills the buffer's tail when ``adapted``."""
        if adapted:
            self.fill_tail(input_TKR, seed=seed)
        return self.multiply(input_TKR, adapted=adapted, out=out)

    def fill_tail(self, input_TKR: Tensor, *, seed: int | None) -> None:
        """Write t = scale * dropout(x) A^T behind the x in the buffer; the backward needs it."""
        x_TK, tail_TR = self.x_of(input_TKR), self.tail_of(input_TKR)
        if seed is None or not self.dropout:
            torch.mm(x_TK, self.compute_a.t(), out=tail_TR)
            return
        tail_TR[:, len(self.lora_a) :] = 0.0
        for rank, mask in self._masks(x_TK, seed):
            tail_TR[:, rank] = (x_TK * mask) @ self.compute_a[rank].t()

    def multiply(self, input_TKR: Tensor, *, adapted: bool, out: Tensor) -> Tensor:
        """The matmul alone: with the buffer's tail, or without it (the base model)."""
        columns = slice(self.width + self.ranks if adapted else self.width)
        weight = self._weight.padded()[: self.outputs]
        out_TO = torch.mm(input_TKR[:, columns], weight[:, columns].t(), out=out)
        return out_TO if self.bias is None else out_TO.add_(self.bias)

    def backward(self, dy_TOR: Tensor, tail_TR: Tensor, *, seed: int | None, out: Tensor) -> Tensor:
        """Gradient with respect to x, [T, K], into ``out``; adds to ``grad_b``.

        ``dy_TOR`` has R columns behind the gradient: g = dy B goes there, for ``backward_a``.
        """
        weight = self._weight.padded()
        dy_TO, g_TR = dy_TOR[:, : self.outputs], self._g(dy_TOR)
        b_OR = weight[: self.outputs, self.width :]
        self._ops.adapter_gradients(dy_TO, b_OR, tail_TR, self._gradients, g_TR)
        if seed is None or not self.dropout:
            rows = self.outputs + self.ranks
            return torch.mm(dy_TOR[:, :rows], weight[:, : self.width], out=out)
        torch.mm(dy_TO, weight[: self.outputs, : self.width], out=out)
        for rank, mask in self._masks(out, seed):
            out.addcmul_(g_TR[:, rank] @ self.compute_a[rank], mask)
        return out

    def backward_a(
        self, dy_TOR: Tensor, x_TK: Tensor, *, seed: int | None,
        norm: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Add to ``grad_a``; after ``backward``, and with the x of the forward.

        With ``norm``, 1 / rms [T, 1] and weight [K], the x of the forward is ``x_TK`` normed.
        """
        g_TR = self._g(dy_TOR)[:, : len(self.grad_a)]
        has_dropout = seed is not None and self.dropout > 0
        if norm is not None and not has_dropout:
            self._ops.add_normed_product(self.grad_a, g_TR, x_TK, *norm, self.scale)
            return
        if norm is not None:
            x_TK = (x_TK * norm[0]).to(x_TK.dtype) * norm[1]
        if seed is None or not has_dropout:
            self._ops.add_product(self.grad_a, g_TR.t(), x_TK, self.scale)
            return
        for rank, mask in self._masks(x_TK, seed):
            self._ops.add_product(self.grad_a[rank], g_TR[:, rank].t(), x_TK * mask, self.scale)

    def x_of(self, input_TKR: Tensor) -> Tensor:
        """The x in a padded input, [T, K]."""
        return input_TKR[:, : self.width]

    def tail_of(self, input_TKR: Tensor) -> Tensor:
        """The tail of a padded input, [T, R]."""
        return input_TKR[:, self.width : self.width + self.ranks]

    def _g(self, dy_TOR: Tensor) -> Tensor:
        return dy_TOR[:, self.outputs : self.outputs + self.ranks]

    def _blocks(self, values: Sequence[Tensor]) -> list[AdapterBlock]:
        """Where the B of each adapted part, or its gradient, belongs."""
        places = zip(self._adapted(), values, strict=True)
        return [AdapterBlock(out, rank, one) for (out, rank), one in places]

    def _adapted(self) -> Iterator[tuple[slice, slice]]:
        for part in self.parts:
            if part.rank is not None:
                yield part.out, part.rank

    def _masks(self, x_TK: Tensor, seed: int) -> Iterator[tuple[slice, Tensor]]:
        """Each adapted module's own dropout mask; the same seed gives the same masks again."""
        generator = torch.Generator(x_TK.device).manual_seed(seed)
        keep = 1.0 - self.dropout
        for _, rank in self._adapted():
            yield rank, torch.empty_like(x_TK).bernoulli_(keep, generator=generator).div_(keep)


def parts_of(names: Sequence[str], outs: Sequence[int], lora: LoraSpec) -> tuple[Part, ...]:
    """Where each of the modules ``names``, of ``outs`` outputs, lies in their stack."""
    parts, row, column = [], 0, 0
    for name, out in zip(names, outs, strict=True):
        rank = None
        if name.rpartition(".")[2] in lora.target_modules:
            rank, column = slice(column, column + lora.r), column + lora.r
        parts.append(Part(name=name, out=slice(row, row + out), rank=rank))
        row += out
    return tuple(parts)


def ranks_of(parts: Sequence[Part]) -> int:
    """R of a stack."""
    return -(-_ranks(parts) // RANK_MULTIPLE) * RANK_MULTIPLE


def lora_size(parts: Sequence[Part], width: int) -> int:
    """How many numbers A and B of a stack have together."""
    adapted = [(part.out, part.rank) for part in parts if part.rank is not None]
    sizes: list[int] = [(out.stop - out.start) * (rank.stop - rank.start) for out, rank in adapted]
    return _ranks(parts) * width + sum(sizes)


def _ranks(parts: Sequence[Part]) -> int:
    stops: list[int] = [part.rank.stop for part in parts if part.rank is not None]
    return max(stops, default=0)
