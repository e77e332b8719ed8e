"""Near-duplicates: the clusters, and the comparison that misses none."""

import random

import numpy as np

from repotune.corpus.duplicates import NEAR, find_clusters, near_pairs, repeated
from repotune.corpus.shingles import jaccard, shingles, word_hashes


def sets_of(texts):
    return [shingles(word_hashes(text)) for text in texts]


def texts_with_relatives(rng, originals, copies, words=300):
    """Random texts; each with copies of which more and more words are replaced."""
    texts = []
    for _ in range(originals):
        text = [f"w{rng.randrange(5000)}" for _ in range(words)]
        for copy in range(copies):
            changed = list(text)
            for place in rng.sample(range(words), copy * words // 80):
                changed[place] = f"v{rng.randrange(5000)}"
            texts.append(" ".join(changed))
    return texts


def test_every_pair_above_the_threshold_is_found_and_none_below() -> None:
    sets = sets_of(texts_with_relatives(random.Random(0), originals=12, copies=10))
    ours = list(range(0, len(sets), 3))
    theirs = [one for one in range(len(sets)) if one % 3]
    expected = {(a, b) for a in ours for b in theirs if jaccard(sets[a], sets[b]) >= NEAR}
    assert set(near_pairs(sets, ours, theirs)) == expected
    assert 30 < len(expected) < len(ours) * len(theirs) / 2


def test_pairs_exactly_at_the_threshold_are_found() -> None:
    # 3 of 5 in common: 0.6, which is no binary fraction. Also for sizes that nothing divides.
    for factor in (1, 2, 3, 7, 11, 100):
        whole = np.arange(5 * factor, dtype=np.uint64)
        part = whole[2 * factor :]
        assert list(near_pairs([part, whole], [0], [1])) == [(0, 1)]
        assert list(near_pairs([part, whole], [1], [0])) == [(1, 0)]
        assert list(near_pairs([part[1:], whole], [0], [1])) == []


def test_clusters_hold_what_is_near_and_only_that() -> None:
    texts = texts_with_relatives(random.Random(1), originals=20, copies=8)
    sets = sets_of(texts)
    clusters = find_clusters(sets)
    for one in range(len(sets)):
        for other in range(one):
            if jaccard(sets[one], sets[other]) >= 0.7:
                assert clusters.first(one) == clusters.first(other)
            if one // 8 != other // 8:
                assert clusters.first(one) != clusters.first(other)


def test_a_large_group_of_the_same_is_one_cluster() -> None:
    rng = random.Random(2)
    base = [f"w{n}" for n in range(200)]
    texts = [" ".join([*base, f"own{rng.randrange(10**9)}"]) for _ in range(400)]
    clusters = find_clusters(sets_of(texts))
    assert {clusters.first(one) for one in range(400)} == {0}


def test_nothing_and_the_wordless_are_no_trouble() -> None:
    assert list(near_pairs([], [], [])) == []
    find_clusters([])
    sets = sets_of(["", "...", "one", "one"])
    clusters = find_clusters(sets)
    assert [clusters.first(one) for one in range(4)] == [0, 1, 2, 2]
    assert list(near_pairs(sets, [0, 2], [1, 3])) == [(2, 3)]
    assert list(near_pairs(sets, [], [0, 1, 2, 3])) == []


def test_texts_that_repeat_others_are_told_by_their_similarity() -> None:
    texts = texts_with_relatives(random.Random(3), originals=10, copies=8)
    ours, theirs = texts[::3], [one for i, one in enumerate(texts) if i % 3]
    for least in (0.6, 0.7, 0.9):
        expected = {
            place
            for place, one in enumerate(sets_of(ours))
            if any(jaccard(one, other) >= least for other in sets_of(theirs))
        }
        assert repeated(ours, iter(theirs), least=least) == expected
        assert 0 < len(expected) <= len(ours)
    assert repeated([], theirs, least=0.7) == repeated(ours, [], least=0.7) == set()
