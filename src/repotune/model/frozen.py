"""Where a stack's frozen weight lies between its uses: in 16 bits, or in 4.

Either gives the matrix as a padded one, [O + R, K + R]: the weight, B in the columns behind it, A
in the rows below. Shapes: O output width, K input width, R of ``linear``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from repotune.kernels import Buffers, Ops
from repotune.kernels.nf4 import AdapterBlock, Nf4

PAD = 64
"""Rows and columns are padded to multiples of it, so that matmuls read aligned memory."""


class FrozenWeight(Protocol):
    """A frozen weight with an adapter around it."""

    compute_a: Tensor
    """scale * A in the compute precision, [R, K]; rows beyond those of A are zero."""

    def refresh(self, a_RK: Tensor, blocks: Sequence[AdapterBlock]) -> None:
        """Take over scale * A and each adapted module's B, both in fp32.

        The blocks' tensors may be read again until the next call.
        """
        ...

    def padded(self) -> Tensor:
        """[O + R, K + R]; valid until another weight of the same buffers is asked for."""
        ...

    def expand(self, wanted: bool) -> bool:
        """Keep the padded matrix from use to use, or no longer; whether that is a change."""
        ...


class DenseWeight:
    """The padded matrix itself, resident in the compute precision."""

    def __init__(
        self, weights: Iterable[Tensor], *, rows: int, width: int, ranks: int, dtype: torch.dtype,
        device: torch.device,
    ) -> None:  # fmt: skip
        """``weights`` of together ``rows`` × ``width``, of which one at a time is asked for."""
        self._rows, self._width = rows, width
        # Allocated first: what comes and goes while it is filled leaves no holes.
        whole = torch.empty(
            _rounded(rows + ranks), _rounded(width + ranks), dtype=dtype, device=device
        )
        self._padded = whole[: rows + ranks, : width + ranks]
        start = 0
        for weight in weights:
            stop = start + len(weight)
            whole[start:stop, :width] = weight
            start = stop
            del weight
        # B is zero outside of each module's own columns.
        self._padded[:, self._width :].zero_()
        self._padded[self._rows :].zero_()
        self.compute_a = self._padded[self._rows :, : self._width]

    def refresh(self, a_RK: Tensor, blocks: Sequence[AdapterBlock]) -> None:
        """See FrozenWeight; both are written into the padded matrix."""
        self.compute_a[: len(a_RK)] = a_RK
        b_OR = self._padded[: self._rows, self._width :]
        for block in blocks:
            b_OR[block.rows, block.columns] = block.values

    def padded(self) -> Tensor:
        """See FrozenWeight."""
        return self._padded

    def expand(self, wanted: bool) -> bool:
        """See FrozenWeight; it always is."""
        return False


class Nf4Weight:
    """Matrices in NF4, dequantised into a buffer that all weights share."""

    def __init__(
        self, parts: Sequence[Nf4], ranks: int, *, ops: Ops, buffers: Buffers, dtype: torch.dtype
    ) -> None:
        self._parts, self._ops, self._buffers = parts, ops, buffers
        self._rows = sum(part.rows for part in parts)
        self._width = parts[0].columns
        self.compute_a = torch.zeros(ranks, self._width, dtype=dtype, device=parts[0].packed.device)
        self._blocks: Sequence[AdapterBlock] = ()
        self._expanded: Tensor | None = None

    def refresh(self, a_RK: Tensor, blocks: Sequence[AdapterBlock]) -> None:
        """See FrozenWeight; B is rounded whenever it is laid beside the weight."""
        self.compute_a[: len(a_RK)] = a_RK
        self._blocks = blocks
        if self._expanded is not None:
            self._ops.place_adapter(self.compute_a, blocks, self._rows, self._expanded)

    def padded(self) -> Tensor:
        """See FrozenWeight."""
        whole = self._expanded
        if whole is None:
            whole = self._buffers.take("weight", *self._size())
            self._write(whole)
        ranks = len(self.compute_a)
        return whole[: self._rows + ranks, : self._width + ranks]

    def expand(self, wanted: bool) -> bool:
        """See FrozenWeight. Raises torch.OutOfMemoryError, after which nothing has changed."""
        if wanted == (self._expanded is not None):
            return False
        whole = None
        if wanted:
            like = self.compute_a
            whole = torch.empty(self._size(), dtype=like.dtype, device=like.device)
            self._write(whole)
        self._expanded = whole
        return True

    def _size(self) -> tuple[int, int]:
        ranks = len(self.compute_a)
        return _rounded(self._rows + ranks), _rounded(self._width + ranks)

    def _write(self, whole: Tensor) -> None:
        start = 0
        for part in self._parts:
            self._ops.dequantise(part, whole[start : start + part.rows, : self._width])
            start += part.rows
        self._ops.place_adapter(self.compute_a, self._blocks, self._rows, whole)


def _rounded(count: int) -> int:
    return -(-count // PAD) * PAD
