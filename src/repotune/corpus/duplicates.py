"""Near-duplicates: files that share most of their 5-grams belong to one cluster.

MinHash with locality-sensitive hashing proposes pairs, and each is verified on the sets
themselves. D documents, P permutations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from repotune.corpus.shingles import Hashes, jaccard

NEAR = 0.6
"""Jaccard similarity from which two files are near-duplicates.

The promise is that no held-out file reaches 0.7 with a training file. How exactly a text is cut
into words moves a pair by up to 0.1 (measured on 400 pairs of a large Python package), and the
promise should hold for every reader's way of cutting.
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
    keys, owners = _index(sets, ours)
    for other in theirs:
        begin = np.searchsorted(keys, sets[other], "left")
        end = np.searchsorted(keys, sets[other], "right")
        hits = [owners[low:high] for low, high in zip(begin, end, strict=True) if low < high]
        for one in np.unique(np.concatenate(hits)).tolist() if hits else ():
            if jaccard(sets[one], sets[other]) >= NEAR:
                yield one, other
