"""A frozen linear with LoRA folded into its matmul; several linears of one input are one matmul.

Shapes: T tokens, K input width, O output width of all stacked modules, R sum of their ranks.

The weight is stored as ``[O, K + R]``: the frozen weight, and behind it each module's B in
columns of its own. The input is a buffer ``[T, K + R]``: x, and behind it scale * x A^T. So one
matmul gives the adapted output, one matmul gives the gradient of both x and x A^T, and a module
whose rows of the tail are zero is the plain linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repotune.records import LoraSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One module inside a stack: its rows of the output, its columns of the tail."""

    name: str
    out: slice
    rank: slice | None
    """None: the module is not adapted."""


class StackedLinear:
    """q/k/v, or gate/up, or a single linear: frozen, with LoRA on the targeted modules.

    ``lora_a`` [R, K] and ``lora_b`` (one [O_i, r] per adapted part) are the fp32 master weights,
    ``grad_a`` and ``grad_b`` their gradients, which ``backward`` adds to.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor] | None,
        *,
        lora: LoraSpec,
        generator: torch.Generator,
    ) -> None:
        self.scale, self.dropout = lora.scale, lora.dropout
        self.width = weights[0].shape[1]
        self.parts = _parts(names, [len(w) for w in weights], lora)
        adapted = [part for part in self.parts if part.rank is not None]
        ranks = lora.r * len(adapted)
        first = weights[0]
        self.weight = first.new_zeros(self.parts[-1].out.stop, self.width + ranks)
        torch.cat(list(weights), out=self.weight[:, : self.width])
        self.bias = torch.cat(list(biases)) if biases else None
        self.lora_a = torch.empty(ranks, self.width, dtype=torch.float32)
        # PEFT's initialisation: kaiming_uniform(a=sqrt(5)) is uniform within 1 / sqrt(K); B is 0.
        self.lora_a.uniform_(-(self.width**-0.5), self.width**-0.5, generator=generator)
        self.lora_a = self.lora_a.to(first.device)
        self.lora_b = [
            self.lora_a.new_zeros(part.out.stop - part.out.start, lora.r) for part in adapted
        ]
        self.grad_a = torch.zeros_like(self.lora_a)
        self.grad_b = [torch.zeros_like(b) for b in self.lora_b]
        self.refresh()

    def masters(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, master weight, gradient) of every A and B, as views of this stack's tensors."""
        adapted = [part for part in self.parts if part.rank is not None]
        for part, b, grad_b in zip(adapted, self.lora_b, self.grad_b, strict=True):
            yield f"{part.name}.lora_A.weight", self.lora_a[part.rank], self.grad_a[part.rank]
            yield f"{part.name}.lora_B.weight", b, grad_b

    def refresh(self) -> None:
        """Bring the compute copies of A and B up to date with the master weights."""
        self.compute_a = self.lora_a.to(self.weight.dtype, copy=True)
        for (out, rank), b in zip(self._adapted(), self.lora_b, strict=True):
            self.weight[out, self.width :][:, rank] = b

    def forward(self, input_TKR: Tensor, *, adapted: bool, seed: int | None, out: Tensor) -> Tensor:
        """Output [T, O] for the x in the buffer; fills the buffer's tail when ``adapted``."""
        if adapted:
            self.fill_tail(input_TKR, seed=seed)
        return self.multiply(input_TKR, adapted=adapted, out=out)

    def fill_tail(self, input_TKR: Tensor, *, seed: int | None) -> None:
        """Write scale * dropout(x) A^T behind the x in the buffer; the backward reads it too."""
        x_TK, tail_TR = input_TKR[:, : self.width], input_TKR[:, self.width :]
        if seed is None or not self.dropout:
            torch.mul(x_TK @ self.compute_a.t(), self.scale, out=tail_TR)
            return
        for rank, mask in self._masks(x_TK, seed):
            low_Tr = (x_TK * mask) @ self.compute_a[rank].t()
            torch.mul(low_Tr, self.scale, out=tail_TR[:, rank])

    def multiply(self, input_TKR: Tensor, *, adapted: bool, out: Tensor) -> Tensor:
        """The matmul alone: with the buffer's tail, or without it (the base model)."""
        columns = slice(None) if adapted else slice(self.width)
        out_TO = torch.mm(input_TKR[:, columns], self.weight[:, columns].t(), out=out)
        return out_TO if self.bias is None else out_TO.add_(self.bias)

    def backward(self, dy_TO: Tensor, input_TKR: Tensor, *, seed: int | None) -> Tensor:
        """Gradient with respect to x, [T, K]; adds to ``grad_a`` and ``grad_b``."""
        d_TKR = dy_TO @ self.weight
        dx_TK = d_TKR[:, : self.width]
        if not len(self.lora_a):
            return dx_TK
        x_TK, tail_TR = input_TKR[:, : self.width], input_TKR[:, self.width :]
        for (out, rank), grad_b in zip(self._adapted(), self.grad_b, strict=True):
            grad_b.add_(dy_TO[:, out].t() @ tail_TR[:, rank])
        g_TR = d_TKR[:, self.width :] * self.scale
        if seed is None or not self.dropout:
            self.grad_a += g_TR.t() @ x_TK
            return dx_TK.addmm_(g_TR, self.compute_a)
        for rank, mask in self._masks(x_TK, seed):
            self.grad_a[rank] += g_TR[:, rank].t() @ (x_TK * mask)
            dx_TK.addcmul_(g_TR[:, rank] @ self.compute_a[rank], mask)
        return dx_TK

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


def _parts(names: Sequence[str], outs: Sequence[int], lora: LoraSpec) -> tuple[Part, ...]:
    parts, row, column = [], 0, 0
    for name, out in zip(names, outs, strict=True):
        rank = None
        if name.rpartition(".")[2] in lora.target_modules:
            rank, column = slice(column, column + lora.r), column + lora.r
        parts.append(Part(name=name, out=slice(row, row + out), rank=rank))
        row += out
    return tuple(parts)
