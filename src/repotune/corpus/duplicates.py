"""Near-duplicates: files that share most of their 5-grams belong to one cluster.

MinHash with locality-sensitive hashing proposes pairs, and each is verified on the sets
themselves. D documents, P permutations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from repotune.corpus.shingles import Hashes, jaccard, shingles, word_hashes
from repotune.records import IntArray

Signatures: TypeAlias = npt.NDArray[np.uint32]

NEAR = 0.6
"""Jaccard similarity from which two files are near-duplicates.

The promise is that no held-out file reaches 0.7 with a training file, in 5-grams of words. It
should hold whether a reader cuts at spaces or at all that is no letter, digit or underscore: over
three large trees, the highest pair across the split was at 0.65 for the one, 0.62 for the other.
To one who counts each sign of punctuation as a word, all code looks more alike than that.
"""

_PERMUTATIONS = 256
_BANDS = 64
"""Of 4 permutations each: a pair at 0.6 is proposed with probability 1 - (1 - 0.6**4)**64 =
0.9999, a pair at 0.7 with 0.99999998."""

_NEIGHBOURS = 4
"""Files that are equal in a band are compared with this many before them, not with all."""

_WORTH_VERIFYING = 0.5
"""By signature; its standard error at 0.6 is 0.03."""

_SEED = 1

_DOCUMENTS_AT_ONCE = 256
"""So that the copy of their 5-grams stays small."""


class Clusters:
    """Which documents belong together: a disjoint-set forest."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def first(self, document: int) -> int:
        """The cluster of ``document``, named by its first member."""
        while self._parent[document] != document:
            self._parent[document] = self._parent[self._parent[document]]
            document = self._parent[document]
        return document

    def join(self, one: int, other: int) -> None:
        """Make the clusters of the two documents one."""
        low, high = sorted((self.first(one), self.first(other)))
        self._parent[high] = low


def find_clusters(sets: Sequence[Hashes]) -> Clusters:
    """Clusters of near-duplicates among the documents' 5-grams; a pair in many is missed."""
    clusters = Clusters(len(sets))
    for one, other in _likely_pairs(_signatures(sets)):
        if clusters.first(one) != clusters.first(other) and jaccard(sets[one], sets[other]) >= NEAR:
            clusters.join(one, other)
    return clusters


def near_pairs(
    sets: Sequence[Hashes], ours: Sequence[int], theirs: Iterable[int]
) -> Iterator[tuple[int, int]]:
    """All pairs of one of ``ours`` and one of ``theirs`` that are near-duplicates: none is missed.

    Whoever shares NEAR of a set's elements has at least one of any (1 - NEAR) of them, plus one.
    So each of ``ours`` is looked up by that many of its elements, the rarest (prefix filtering,
    Chaudhuri et al. 2006), and what is found there is compared in full.
    """
    places, others = list(ours), list(theirs)
    near = _near([sets[one] for one in places], (sets[other] for other in others))
    for one, other, _ in near:
        yield places[one], others[other]


def repeated(texts: Sequence[str], others: Iterable[str], *, least: float) -> set[int]:
    """Which of ``texts`` are as similar as ``least``, NEAR or more, to one of ``others``.

    By Jaccard, in 5-grams of words. None is missed; of ``others`` one at a time is held.
    """
    near = _near(
        [shingles(word_hashes(text)) for text in texts],
        (shingles(word_hashes(other)) for other in others),
    )
    return {one for one, _, similarity in near if similarity >= least}


def _near(ours: Sequence[Hashes], theirs: Iterable[Hashes]) -> Iterator[tuple[int, int, float]]:
    """Places of both and similarity of the pairs that reach NEAR; see ``near_pairs``."""
    keys, owners = _index(ours)
    for place, other in enumerate(theirs):
        begin = np.searchsorted(keys, other, "left")
        end = np.searchsorted(keys, other, "right")
        shared = np.flatnonzero(begin < end)
        hits = [owners[low:high] for low, high in zip(begin[shared], end[shared], strict=True)]
        for one in np.unique(np.concatenate(hits)).tolist() if hits else ():
            short, long = sorted((len(ours[one]), len(other)))
            if short >= NEAR * long and (similarity := jaccard(ours[one], other)) >= NEAR:
                yield one, place, similarity


def _signatures(sets: Sequence[Hashes]) -> Signatures:
    """The MinHash of each set; [D, P]."""
    signatures_DP = np.zeros((len(sets), _PERMUTATIONS), np.uint32)
    for begin in range(0, len(sets), _DOCUMENTS_AT_ONCE):
        some = sets[begin : begin + _DOCUMENTS_AT_ONCE]
        edges = np.cumsum([0, *(len(one) for one in some)], dtype=np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            np.concatenate(some), edges, _PERMUTATIONS, _SEED
        )
        signatures_DP[begin : begin + len(some)] = matrix.to_rows()
    return signatures_DP


def _likely_pairs(signatures_DP: Signatures) -> Iterator[tuple[int, int]]:
    """Pairs of documents that are equal in a band and similar by signature, ascending."""
    count = len(signatures_DP)
    found: list[IntArray] = []
    for band in np.split(signatures_DP, _BANDS, axis=1):
        order = np.lexsort((np.arange(count), *band.T))
        is_equal = (band[order[1:]] == band[order[:-1]]).all(axis=1)
        run = np.cumsum(np.concatenate(([True], ~is_equal))) if count else order
        for distance in range(1, min(_NEIGHBOURS, count - 1) + 1):
            places = np.flatnonzero(run[distance:] == run[:-distance])
            found.append(order[places] * count + order[places + distance])
    for pair in np.unique(np.concatenate(found)).tolist() if found else ():
        one, other = divmod(pair, count)
        if np.mean(signatures_DP[one] == signatures_DP[other]) >= _WORTH_VERIFYING:
            yield one, other


def _index(sets: Sequence[Hashes]) -> tuple[Hashes, IntArray]:
    """Enough of each set's elements, ascending, and beside each whose it is."""
    if not sets:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    elements, counts = np.unique(np.concatenate(sets), return_counts=True)
    keys = []
    for own in sets:
        # Rounded down with a margin, because 0.6 is no binary fraction: one more does no harm.
        needed = len(own) - int(NEAR * len(own) - 1e-6)
        rarest = np.argsort(counts[np.searchsorted(elements, own)], kind="stable")
        keys.append(own[rarest[: needed + 1]])
    keys_K = np.concatenate(keys)
    owners_K = np.repeat(np.arange(len(sets)), [len(one) for one in keys])
    order = np.argsort(keys_K, kind="stable")
    return keys_K[order], owners_K[order]
