"""The interval against the analytic one, and against a bootstrap in plain loops."""

import math
import random

import numpy as np
import pytest

from repotune.evaluation.bootstrap import difference_interval

LN2 = math.log(2)


def test_many_files_of_one_size_give_the_interval_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    files, size = 400, 1000
    byte_counts = np.full(files, size)
    base = rng.normal(1.0, 0.3, files) * size * LN2  # bits per byte vary a lot between files,
    change = rng.normal(-0.05, 0.02, files)  # their difference little: only a paired one sees it
    found = difference_interval(base, base + change * size * LN2, byte_counts, seed=1)
    half = 1.96 * change.std() / math.sqrt(files)
    assert found.value == pytest.approx(change.mean(), rel=1e-9)
    # 10,000 draws know a percentile of the tail to about 2 % of the half-width
    assert found.low == pytest.approx(change.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(change.mean() + half, abs=0.06 * half)


def test_few_files_of_different_sizes_equal_plain_loops():
    rng = np.random.default_rng(2)
    byte_counts = rng.integers(50, 5000, 12)
    base = rng.uniform(0.5, 1.5, 12) * byte_counts * LN2
    tuned = base * rng.uniform(0.8, 1.05, 12)
    found = difference_interval(base, tuned, byte_counts, seed=3)

    chance, draws = random.Random(4), []
    for _ in range(10_000):
        picked = [chance.randrange(12) for _ in range(12)]
        size = sum(int(byte_counts[i]) for i in picked) * LN2
        draws.append(sum(tuned[i] for i in picked) / size - sum(base[i] for i in picked) / size)
    draws.sort()
    total = byte_counts.sum() * LN2
    assert found.value == pytest.approx(tuned.sum() / total - base.sum() / total, rel=1e-9)
    width = draws[9750] - draws[250]
    # two independent sets of draws: each end has a standard error of about 1 % of the width
    assert found.low == pytest.approx(draws[250], abs=0.04 * width)
    assert found.high == pytest.approx(draws[9750], abs=0.04 * width)


def test_the_seed_decides():
    rng = np.random.default_rng(6)
    base, tuned = rng.uniform(5, 9, 20), rng.uniform(4, 9, 20)
    byte_counts = rng.integers(10, 30, 20)
    one = difference_interval(base, tuned, byte_counts, seed=1)
    assert one == difference_interval(base, tuned, byte_counts, seed=1)
    assert one != difference_interval(base, tuned, byte_counts, seed=2)
    assert one.low < one.value < one.high


def test_no_difference_is_zero_and_an_equal_one_has_no_width():
    base, byte_counts = np.array([3.0, 5.0, 8.0]), np.array([10, 20, 30])
    none = difference_interval(base, base, byte_counts, seed=1)
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)
    same = difference_interval(base, base - 0.1 * LN2 * byte_counts, byte_counts, seed=1)
    assert [same.value, same.low, same.high] == pytest.approx([-0.1] * 3, rel=1e-9)


def test_more_files_than_one_chunk_of_draws_holds():
    files = 3000  # 10,000 draws of them are 15 chunks
    rng = np.random.default_rng(5)
    change = rng.normal(0.0, 1.0, files)
    found = difference_interval(np.zeros(files), change, np.ones(files, dtype=int), seed=1)
    half = 1.96 * change.std() / LN2 / math.sqrt(files)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.5])
def test_one_file_never_excludes_zero(factor):
    base, byte_counts = np.array([100.0]), np.array([80])
    found = difference_interval(base, base * factor, byte_counts, seed=1)
    assert found.low < 0 < found.high
    assert found.low <= found.value <= found.high
    assert all(map(math.isfinite, (found.low, found.high)))
