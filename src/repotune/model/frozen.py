"""Where a stack's frozen weight lies between its uses: in 16 bits, or in 4.

Either gives the matrix as a padded one, [O + R, K + R]: the weight, B in the columns behind it, A
in the rows below. Shapes: O output width, K input width, R sum of the ranks, P = pad of R.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from repotune.kernels import Buffers, Ops
from repotune.kernels.nf4 import Nf4

PAD = 64
"""Rows and columns are padded to multiples of it, so that matmuls read aligned memory."""


class FrozenWeight(Protocol):
    """A frozen weight and the adapter's compute copies."""

    def adapter(self) -> tuple[Tensor, Tensor]:
        """The compute copies of scale * A [R, K] and B [O, R], to be written in place."""
        ...

    def padded(self) -> Tensor:
        """[O + R, K + R]; valid until another weight of the same buffers is asked for."""
        ...


class DenseWeight:
    """The padded matrix itself, resident in the compute precision."""

    def __init__(self, weights: Sequence[Tensor], ranks: int) -> None:
        self._rows = sum(len(weight) for weight in weights)
        self._width = weights[0].shape[1]
        rows, columns = _rounded(self._rows + ranks), _rounded(self._width + ranks)
        whole = weights[0].new_empty(rows, columns)
        self._padded = whole[: self._rows + ranks, : self._width + ranks]
        places = torch.split(whole[: self._rows, : self._width], [len(one) for one in weights])
        for place, weight in zip(places, weights, strict=True):
            place.copy_(weight)
        # B is zero outside of each module's own columns.
        self._padded[:, self._width :].zero_()
        self._padded[self._rows :].zero_()

    def adapter(self) -> tuple[Tensor, Tensor]:
        """See FrozenWeight; views of the padded matrix."""
        return (
            self._padded[self._rows :, : self._width],
            self._padded[: self._rows, self._width :],
        )

    def padded(self) -> Tensor:
        """See FrozenWeight."""
        return self._padded


class Nf4Weight:
    """Matrices in NF4, dequantised into a buffer that all weights share."""

    def __init__(
        self, parts: Sequence[Nf4], ranks: int, *, ops: Ops, buffers: Buffers, dtype: torch.dtype
    ) -> None:
        self._parts, self._ops, self._buffers = parts, ops, buffers
        self._rows = sum(part.rows for part in parts)
        self._width = parts[0].columns
        device = parts[0].packed.device
        self._a = torch.zeros(ranks, self._width, dtype=dtype, device=device)
        self._b = torch.zeros(self._rows, ranks, dtype=dtype, device=device)

    def adapter(self) -> tuple[Tensor, Tensor]:
        """See FrozenWeight; small tensors of their own."""
        return self._a, self._b

    def padded(self) -> Tensor:
        """See FrozenWeight."""
        ranks = len(self._a)
        rows, columns = _rounded(self._rows + ranks), _rounded(self._width + ranks)
        whole = self._buffers.take("weight", rows, columns)
        start = 0
        for part in self._parts:
            self._ops.dequantise(part, whole[start : start + part.rows, : self._width])
            start += part.rows
        self._ops.place_adapter(self._a, self._b, whole)
        return whole[: self._rows + ranks, : self._width + ranks]


def _rounded(count: int) -> int:
    return -(-count // PAD) * PAD
