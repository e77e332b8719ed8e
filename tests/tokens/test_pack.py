"""Nothing is lost, nothing overflows, and the rows are those of best-fit decreasing."""

import numpy as np
import pytest

from repotune.tokens.pack import pack


def best_fit_decreasing(lengths, capacity):
    """The rule as the paper has it, by looking at every row: quadratic."""
    rows, room = [], []
    for piece in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        fitting = [left for left in room if left >= lengths[piece]]
        if fitting:
            row = max(n for n, left in enumerate(room) if left == min(fitting))
            room[row] -= lengths[piece]
            rows[row].append(piece)
        else:
            rows.append([piece])
            room.append(capacity - lengths[piece])
    return rows


def test_the_drawn_example():
    assert pack([8, 5, 4, 3, 2, 1], 8) == [[0], [1, 3], [2, 4, 5]]


@pytest.mark.parametrize("seed", range(5))
def test_as_good_as_the_quadratic_rule(seed):
    lengths = np.random.default_rng(seed).integers(1, 65, 300).tolist()
    rows = pack(lengths, 64)
    assert sorted(piece for row in rows for piece in row) == list(range(300))
    assert max(sum(lengths[piece] for piece in row) for row in rows) <= 64
    assert len(rows) == len(best_fit_decreasing(lengths, 64))


def test_many_pieces_fill_the_rows():
    lengths = np.random.default_rng(0).integers(1, 2049, 30_000).tolist()
    rows = pack(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) > 0.99


def test_no_pieces_no_rows():
    assert pack([], 8) == []
