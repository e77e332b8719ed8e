"""5-grams of words, against plain Python and against datasketch's estimate."""

import random
import re

import numpy as np
import pytest
from datasketch import MinHash

from repotune.corpus.shingles import jaccard, shingles, word_hashes


def plain(text):
    words = re.findall(r"\w+", text)
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))} if words else set()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ...\n",
        "one",
        "a b c d",
        "a b c d e",
        "a b c d e a b c d e a b c d e",
        "x=1;y_2 = x+ 1\t\n\n__init__(self)",
        "이 함수는 두 수를 더한다 그리고 값을 반환한다 이 함수는",
        "naïve Ünïcödé ² ½ x² _ a\u0301 💡 ok 𝒳 end",
    ],
)
def test_words_and_grams_are_those_of_the_regular_expression(text) -> None:
    assert len(word_hashes(text)) == len(re.findall(r"\w+", text))
    assert len(shingles(word_hashes(text))) == len(plain(text))


def test_a_word_has_one_hash_wherever_it_stands_and_in_whatever_text() -> None:
    alone = word_hashes("spam")[0]
    assert word_hashes("x spam")[1] == word_hashes("한글 spam 💡")[1] == alone
    assert len(set(word_hashes("ab ba a b aa abc \u0101b").tolist())) == 7


def splitmix(value):
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_the_hashes_are_the_same_on_every_machine() -> None:
    base = 0x9E3779B97F4A7C15
    words = ["spam", "egg", "한글", "a", "💡_"[1:], "e"]
    expected = [
        splitmix(sum(ord(one) * base**place for place, one in enumerate(word)) % 2**64)
        for word in words
    ]
    assert word_hashes(" + ".join(words)).tolist() == expected
    grams = []
    for begin in (0, 1):
        gram = expected[begin]
        for other in expected[begin + 1 : begin + 5]:
            gram = splitmix((gram * base + other) % 2**64)
        grams.append(gram)
    assert shingles(word_hashes(" + ".join(words))).tolist() == sorted(grams)


def test_similarity_is_that_of_the_sets_and_of_datasketch() -> None:
    rng = random.Random(0)
    for changes in (0, 5, 20, 60, 200):
        words = [rng.choice("abcdefghijklmnop") * rng.randrange(1, 9) for _ in range(400)]
        other = list(words)
        for _ in range(changes):
            other[rng.randrange(400)] = str(rng.random())
        one, two = " ".join(words), ", ".join(other)
        a, b = plain(one), plain(two)
        ours = jaccard(shingles(word_hashes(one)), shingles(word_hashes(two)))
        assert ours == pytest.approx(len(a & b) / len(a | b), abs=1e-12)
        sketches = []
        for grams in (a, b):
            sketch = MinHash(num_perm=256)
            sketch.update_batch([" ".join(gram).encode() for gram in grams])
            sketches.append(sketch)
        # The standard error of 256 permutations is at most 0.031; this is four of them.
        assert sketches[0].jaccard(sketches[1]) == pytest.approx(ours, abs=0.125)


def test_sets_without_elements_are_not_alike() -> None:
    empty = np.zeros(0, np.uint64)
    assert jaccard(empty, empty) == 0
