"""How far the difference between two models might lie off, had other files been held out."""

from __future__ import annotations

import math

import numpy as np

from repotune.records import FloatArray, IntArray, Interval

DRAWS = 10_000
_CHUNK_ELEMENTS = 2**21
"""Indices drawn at once, 16 MiB: the draws of many files do not fit into memory together."""
_DRAW = 2
"""Keeps these draws apart from others of the same seed."""


def difference_interval(
    base_nats: FloatArray, tuned_nats: FloatArray, byte_counts: IntArray, *, seed: int
) -> Interval:
    """Tuned minus base in bits per byte, with its ``paired_interval``; sums per file, [files]."""
    ln2 = math.log(2)
    return paired_interval(base_nats / ln2, tuned_nats / ln2, byte_counts, seed=seed)


def paired_interval(
    base: FloatArray, tuned: FloatArray, sizes: IntArray | FloatArray, *, seed: int
) -> Interval:
    """Tuned minus base of the ratio sum / size, with the 95 % interval of a paired bootstrap.

    The arguments are sums per file, [files]; sizes are above 0. In each draw as many files as there
    are, with replacement, give both models' ratios (of sums, so a file counts by its size); the
    interval reaches from the 2.5th to the 97.5th percentile of their differences. It speaks about
    files like these, and is too narrow when there are only a few.

    One file says nothing about others, and no number can: the interval is then plus and minus the
    base's ratio (or the difference, if larger), so that it holds zero whatever was seen.
    """
    gains, total = tuned - base, sizes.sum()
    value = float(gains.sum() / total)
    files = len(gains)
    if files < 2:
        widest = max(abs(value), float(base.sum() / total))
        return Interval(value=value, low=-widest, high=widest)
    generator = np.random.default_rng((seed, _DRAW))
    at_once = max(1, _CHUNK_ELEMENTS // files)
    drawn = []
    for start in range(0, DRAWS, at_once):
        index = generator.integers(files, size=(min(at_once, DRAWS - start), files))
        drawn.append(gains[index].sum(axis=1) / sizes[index].sum(axis=1))
    low, high = np.percentile(np.concatenate(drawn), (2.5, 97.5))
    return Interval(value=value, low=float(low), high=float(high))
