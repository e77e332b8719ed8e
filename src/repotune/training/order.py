"""The order of samples: an endless sequence of row numbers that the seed alone decides.

    position   0  1  2  3  4 | 5  6  7  8  9 | 10 ...
    row        3  0  4  1  2 | 1  4  0  2  3 |  2 ...      5 rows; each epoch is a permutation
    batch     [0        ][1        ][2        ]...         4 rows a global batch

A global batch takes the next positions and may span two epochs. So the position reached (the
checkpoint's ``cursor``) is all that a resumed run needs to see every row exactly when an
uninterrupted one would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from repotune.records import IntArray, Row


class Rows(Protocol):
    """What training needs of the stored rows; ``tokens.RowStore`` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Row: ...

    def order(self, epoch: int, seed: int) -> IntArray:
        """A permutation of all row numbers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A row, its number, and the seed of its dropout (None: no dropout)."""

    index: int
    row: Row
    dropout_seed: int | None


class SampleOrder:
    """Which sample stands at each position of the endless sequence."""

    def __init__(self, rows: Rows, *, seed: int, dropout: bool) -> None:
        self._rows, self._seed, self._dropout = rows, seed, dropout
        self._epoch, self._permutation = 0, rows.order(0, seed)

    def batch(self, cursor: int, size: int) -> list[Sample]:
        """The samples at positions ``cursor`` to ``cursor + size``."""
        return [self._at(position) for position in range(cursor, cursor + size)]

    def _at(self, position: int) -> Sample:
        epoch, place = divmod(position, len(self._rows))
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, self._rows.order(epoch, self._seed)
        index = int(self._permutation[place])
        # The masks hang on the position, not on a generator's state: resuming draws the same.
        mask = _seed_at(self._seed, position) if self._dropout else None
        return Sample(index=index, row=self._rows[index], dropout_seed=mask)


def cut(samples: list[Sample], pieces: int) -> list[Sample]:
    """The samples, each cut into so many of about equal length; no label is lost.

    A document that crosses a cut goes on without what stood before it.
    """
    if pieces == 1:
        return samples
    return [_piece(sample, part, pieces) for sample in samples for part in range(pieces)]


def _piece(sample: Sample, part: int, pieces: int) -> Sample:
    row, length = sample.row, len(sample.row.input_ids)
    begin, end = part * length // pieces, (part + 1) * length // pieces
    inside = row.starts[(row.starts > begin) & (row.starts < end)] - begin
    piece = Row(
        input_ids=row.input_ids[begin:end],
        labels=row.labels[begin:end],
        starts=np.concatenate([np.zeros(1, row.starts.dtype), inside]),
    )
    seed = sample.dropout_seed
    return replace(sample, row=piece, dropout_seed=None if seed is None else (seed + part) % 2**63)


def _seed_at(seed: int, position: int) -> int:
    return int(np.random.SeedSequence((seed, position)).generate_state(1, np.uint64)[0])
