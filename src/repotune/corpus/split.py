"""Which files are held out: whole clusters of near-duplicates, in an order that the seed decides.

D documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from repotune.corpus.duplicates import find_clusters, near_pairs
from repotune.corpus.shingles import Hashes
from repotune.errors import CorpusError


def split_documents(
    paths: Sequence[str], sets: Sequence[Hashes], *, share: float, seed: int
) -> tuple[list[int], set[int]]:
    """The cluster of each document [D], counted from 0 by first member, and who is held out.

    No held-out document is a near-duplicate of another: what the search for clusters has missed
    is found by comparing the two sides, and joined. About ``share`` of the documents is held out,
    at least one and not all of them; a cluster that is larger than what is still wanted is passed
    over. Raises CorpusError if all documents are one cluster, unless ``share`` is 0.
    """
    clusters = find_clusters(sets)
    while True:
        firsts = [clusters.first(document) for document in range(len(paths))]
        numbers = {first: number for number, first in enumerate(sorted(set(firsts)))}
        if share == 0:
            return [numbers[first] for first in firsts], set()
        heldout = _choose(paths, firsts, share, seed)
        training = [document for document in range(len(paths)) if document not in heldout]
        pairs = list(near_pairs(sets, sorted(heldout), training))
        if not pairs:
            return [numbers[first] for first in firsts], heldout
        for one, other in pairs:
            clusters.join(one, other)


def _choose(paths: Sequence[str], firsts: Sequence[int], share: float, seed: int) -> set[int]:
    members: dict[int, list[int]] = {}
    for document, first in enumerate(firsts):
        members.setdefault(first, []).append(document)
    if len(members) < 2:
        raise CorpusError(
            f"None of the {len(paths)} files that are left can be held out, because all are "
            "near-duplicates of each other: add other files, or set heldout_share to 0 and "
            "evaluate to false."
            if len(paths) > 1
            else f"Only {paths[0]} is left, so nothing can be held out for the evaluation: give a "
            "folder with more files, or set heldout_share to 0 and evaluate to false."
        )
    # Each cluster's place depends on its own paths alone, so that a new file moves few others.
    order = sorted(
        members.values(),
        key=lambda some: hashlib.sha256(
            f"{seed}\0{min(paths[one] for one in some)}".encode()
        ).digest(),
    )
    wanted = min(max(round(share * len(paths)), 1), len(paths) - 1)
    heldout: set[int] = set()
    for some in order:
        if len(heldout) + len(some) <= wanted:
            heldout.update(some)
    smallest: list[int] = min(order, key=len)
    return heldout or set(smallest)
