"""A text as the set of its 5-grams of words: what near-duplicates are compared by.

Words are runs of letters, digits and underscores (``\\w+``). A text of fewer than five words is
one 5-gram of all it has. Each 5-gram is a 64-bit hash, the same on every machine.

T characters, W words, N distinct 5-grams.
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from repotune.records import IntArray

Hashes: TypeAlias = npt.NDArray[np.uint64]

NGRAM = 5

_BASE = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2**64."""
_INVERSE = pow(_BASE, -1, 1 << 64)


def word_hashes(text: str) -> Hashes:
    """The words of ``text`` in their order, hashed; [W].

    A word is the polynomial sum(character * base**place) modulo 2**64, mixed; all words at once
    are differences of one running sum.
    """
    if text.isascii():
        codes_T = np.frombuffer(text.encode("ascii"), np.uint8)
        is_word_T = _is_word(np.arange(128))[codes_T]
    else:
        codes_T = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        distinct, places_T = np.unique(codes_T, return_inverse=True)
        is_word_T = _is_word(distinct)[places_T]
    edges = np.flatnonzero(np.diff(is_word_T, prepend=False, append=False))
    starts_W, ends_W = edges[::2], edges[1::2]
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum(codes_T * _powers(_BASE, len(text)), out=sums[1:])
    return _mixed((sums[ends_W] - sums[starts_W]) * _powers(_INVERSE, len(text))[starts_W])


def shingles(words_W: Hashes) -> Hashes:
    """The distinct 5-grams of ``words_W``, ascending; [N]."""
    grams = words_W[: max(len(words_W) - NGRAM + 1, 1)]
    for offset in range(1, min(NGRAM, len(words_W))):
        grams = _mixed(grams * np.uint64(_BASE) + words_W[offset : offset + len(grams)])
    return np.unique(grams)


def jaccard(a_N: Hashes, b_N: Hashes) -> float:
    """Intersection over union of two ascending sets; 0 if both are empty."""
    common = len(np.intersect1d(a_N, b_N, assume_unique=True))
    return common / max(len(a_N) + len(b_N) - common, 1)


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit depends on every bit."""
    first: Hashes = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    second: Hashes = (first ^ (first >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    third: Hashes = second ^ (second >> np.uint64(31))
    return third


def _is_word(codes: IntArray) -> npt.NDArray[np.bool_]:
    """For each code point, whether ``\\w`` matches it."""
    return np.array([chr(code).isalnum() or code == ord("_") for code in codes.tolist()], np.bool_)


def _powers(base: int, length: int) -> Hashes:
    """base**0, base**1, … modulo 2**64; [length]."""
    return _power_table(base, 1 << length.bit_length())[:length]


@cache
def _power_table(base: int, length: int) -> Hashes:
    factors = np.full(length, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)
