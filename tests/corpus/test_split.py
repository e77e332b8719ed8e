"""Held-out files: how many, which, and never near one that is trained on."""

import pytest

from repotune.corpus.duplicates import NEAR
from repotune.corpus.shingles import jaccard, shingles, word_hashes
from repotune.corpus.split import split_documents
from repotune.errors import CorpusError

from .trees import program


def documents(groups):
    """Paths and 5-grams of programs; ``groups`` says how many variants each has."""
    paths, texts = [], []
    for group, size in enumerate(groups):
        for copy in range(size):
            paths.append(f"{group:03}/{copy:03}.py")
            texts.append(program(group) + f"copy_{copy} = {copy}\n")
    return paths, [shingles(word_hashes(text)) for text in texts]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.49])
def test_about_the_share_is_held_out_by_whole_clusters(share) -> None:
    groups = [1, 2, 3, 1, 5, 1, 1, 8, 1, 1, 2, 2, 4, 1, 1, 1, 20, 1, 1, 3]
    paths, sets = documents(groups)
    for seed in range(5):
        clusters, heldout = split_documents(paths, sets, share=share, seed=seed)
        assert clusters == [group for group, size in enumerate(groups) for _ in range(size)]
        assert len(heldout) == pytest.approx(share * len(paths), abs=1)
        sides = {(clusters[one], one in heldout) for one in range(len(paths))}
        assert len(sides) == len(groups)
        for one in heldout:
            for other in set(range(len(paths))) - heldout:
                assert jaccard(sets[one], sets[other]) < NEAR


def test_the_seed_and_the_paths_decide() -> None:
    paths, sets = documents([1] * 40)
    chosen = [split_documents(paths, sets, share=0.2, seed=seed)[1] for seed in range(6)]
    assert len({frozenset(one) for one in chosen}) == 6
    assert split_documents(paths, sets, share=0.2, seed=0)[1] == chosen[0]
    # A file that is added moves at most one of the eight.
    more = split_documents(
        [*paths, "new.py"], [*sets, documents([1] * 41)[1][40]], share=0.2, seed=0
    )
    assert len(chosen[0] - more[1]) <= 1


def test_both_sides_have_something() -> None:
    for groups, expected in (([1, 1], 1), ([9, 1], 1), ([5, 9], 5), ([3, 3], 3)):
        paths, sets = documents(groups)
        for seed in range(4):
            _, heldout = split_documents(paths, sets, share=0.1, seed=seed)
            assert len(heldout) == expected


def test_nothing_is_held_out_where_nothing_is_asked_for() -> None:
    paths, sets = documents([4])
    assert split_documents(paths, sets, share=0, seed=0) == ([0, 0, 0, 0], set())


def test_one_cluster_cannot_be_split() -> None:
    paths, sets = documents([4])
    with pytest.raises(CorpusError, match=r"None of the 4 files .* set heldout_share to 0"):
        split_documents(paths, sets, share=0.1, seed=0)
    with pytest.raises(CorpusError, match=r"Only 000/000\.py is left.*give a folder"):
        split_documents(paths[:1], sets[:1], share=0.1, seed=0)
