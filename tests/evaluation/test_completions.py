"""Next lines and completions at a place, by models of which every next token is known."""

import numpy as np
import pytest
from rapidfuzz.distance import Indel

from repotune.errors import UsageError
from repotune.evaluation import complete_at
from repotune.evaluation.completions import (
    edit_similarity,
    exact_match,
    figures,
    line_differences,
    name_recall,
    telling_first,
    write_next_lines,
)
from repotune.evaluation.cursors import Cursor
from repotune.events import StageProgress
from repotune.records import Completion

from .tiny import BYTES, EOS, FIM, Bigrams, chain, make_tokenizer

C, D = BYTES + ord("c"), BYTES + ord("d")


def completion(base, tuned, truth, path="a.py", names=()):
    return Completion(
        path=path, line=1, prompt_tail="", truth=truth, base=base, tuned=tuned, names=names
    )


def test_lines_are_compared_without_the_white_space_around_them():
    assert exact_match("  return x \n", "return x")
    assert not exact_match("return  x", "return x")
    assert not exact_match("", "return x")


def test_edit_similarity_is_crosscodeevals_ratio():
    assert edit_similarity("  return x", "return x ") == 1.0
    assert edit_similarity("", "return x") == 0.0
    # 2 · matches / (lengths): "abcd" and "abxd" share 3 of 4 + 4
    assert edit_similarity("abcd", "abxd") == pytest.approx(0.75)
    one, other = "for item in items:", "for i in range(3):"
    assert edit_similarity(one, other) == pytest.approx(Indel.normalized_similarity(one, other))


def test_figures_are_means_and_those_that_tell_come_first():
    both, none = completion("x", "x", "x", "both"), completion("y", "z", "x", "none")
    only_tuned = completion("y", " x", "x", "tuned")
    only_base = completion("x", "y", "x", "base")
    exact, alike = figures([both, none, only_tuned, both])
    assert exact == {"base": 0.5, "tuned": 0.75}
    assert alike == {"base": 0.5, "tuned": 0.75}
    assert figures([]) == ({}, {})
    ordered = telling_first([both, only_base, none, only_tuned])
    assert [one.path for one in ordered] == ["tuned", "both", "base", "none"]


def test_names_are_recalled_as_whole_words_and_counted_over_all_lines():
    names = ("Basket", "total")
    one = completion("basket.totals()", "Basket().total", "Basket.total", names=names)
    other = completion("total", "x", "total", names=("total",))
    asked, recall = name_recall([one, other, completion("a", "b", "c")])
    assert (asked, recall) == (3, {"base": 1 / 3, "tuned": 2 / 3})
    assert name_recall([completion("a", "b", "c")]) == (0, {})


def test_differences_of_lines_are_paired_by_file_and_need_six():
    lines = [completion("x", "abcd", "abcd", f"{i}.py", ("abcd",)) for i in range(6)]
    some = line_differences(lines, seed=1)
    assert {name: (one.value, one.low, one.high) for name, one in some.items()} == {
        "exact_match": (1, 1, 1), "edit_similarity": (1, 1, 1), "name_recall": (1, 1, 1),
    }  # fmt: skip
    assert line_differences(lines[:5] * 2, seed=1) == {}
    # a file without a name to recall says nothing of that, but of the lines
    lines[5] = completion("x", "x", "x", "5.py")
    some = line_differences(lines, seed=1)
    assert set(some) == {"exact_match", "edit_similarity"}
    assert some["exact_match"].value == pytest.approx(5 / 6)
    assert some["exact_match"].low < 5 / 6 < some["exact_match"].high


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Base writes "cat" and tuned "cog" after a line end or "=", and both end that line."""
    table = chain("\ncat\n", "=c", "dog\n")
    return Bigrams(base=table, tuned={C: D}).decoder(tmp_path_factory.mktemp("model"))


def test_next_lines_are_written_to_their_end_from_the_end_of_the_file_so_far(decoder, tokenizer):
    lines = [f"line {i}" for i in range(20)]
    cursor = Cursor(path="a.py", line=20, prefix="\n".join([*lines, ""]), truth="cog")
    events = []
    (one,) = write_next_lines(
        decoder, tokenizer, [cursor], defined=frozenset({"cog", "line", "other"}),
        max_seq_length=64, max_line_tokens=8, stage="s", emit=events.append,
    )  # fmt: skip
    assert (one.base, one.tuned, one.truth) == ("cat", "cog", "cog")
    assert (one.path, one.line) == ("a.py", 20)
    assert one.names == ("cog",)
    assert one.prompt_tail == "\n".join([*lines[-8:], ""])
    assert events == [StageProgress(stage="s", done=1)]


TEXT = "import os\nname = value\n\nlast\n"


def complete(decoder, tokenizer, line, column=None, *, text=TEXT, limit=8, suffix=None):
    return complete_at(
        decoder, tokenizer, text, path="a.py", line=line, column=column, suffix=suffix,
        max_new_tokens=limit, max_seq_length=64,
    )  # fmt: skip


def test_inside_a_line_its_rest_is_the_truth(decoder, tokenizer):
    one = complete(decoder, tokenizer, 2, 7)
    assert one.prompt_tail == "import os\nname ="
    assert one.truth == " value"
    assert (one.base, one.tuned) == ("cat", "cog")


def test_at_the_end_of_a_line_what_follows_is_the_truth(tokenizer, tmp_path):
    decoder = Bigrams(base=chain("e\ncat\n"), tuned={C: D}).decoder(tmp_path)
    one = complete(decoder, tokenizer, 2, limit=9)
    assert one.prompt_tail == "import os\nname = value"
    assert one.truth == "\n\nlast\n"  # all 7 tokens that are left
    assert one.base == "\ncat\ncat\n"
    assert complete(decoder, tokenizer, 2, 13).truth == one.truth  # the column after the last
    assert complete(decoder, tokenizer, 1, limit=16).truth == "\nname = value\n"
    assert complete(decoder, tokenizer, 1, limit=6).truth == "\nname "  # not even a line


def test_a_model_that_fills_in_sees_what_stands_after_the_truth(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer", fim=True)
    # After the id that asks for the middle: base "c", tuned "d"; left to right, after "=": "x".
    table = {**chain("cc", "dd", "=x", "xx"), FIM[2]: C, C: EOS, D: EOS}
    decoder = Bigrams(base=table, tuned={FIM[2]: BYTES + ord("d")}).decoder(tmp_path / "model")
    one = complete(decoder, tokenizer, 2, 7)
    assert one.truth == " value"
    assert (one.base, one.tuned) == ("c", "")
    # nothing but white space after the truth: left to right
    assert complete(decoder, tokenizer, 2, 7, text="a\nname = value\n").base == "x" * 8


def test_a_suffix_given_by_hand_goes_before_what_the_file_has(tmp_path, decoder, tokenizer):
    fills_in = make_tokenizer(tmp_path / "tokenizer", fim=True)
    table = {**chain("cc", "dd", "=x", "xx"), FIM[2]: C, C: EOS, D: EOS}
    writer = Bigrams(base=table, tuned={FIM[2]: BYTES + ord("d")}).decoder(tmp_path / "model")
    one = complete(writer, fills_in, 2, 7, text="a\nname = value\n", suffix="\nlast\n")
    assert (one.base, one.truth) == ("c", "")
    assert complete(writer, fills_in, 2, 7, suffix=" \n").base == "x" * 8  # as at a file's end
    with pytest.raises(UsageError, match="no tokens for fill in the middle"):
        complete(decoder, tokenizer, 2, 7, suffix="\n")


def test_as_many_lines_are_seen_as_an_editor_sends(tmp_path, monkeypatch):
    tokenizer, seen = make_tokenizer(tmp_path, fim=True), []

    def prompt(_, before, after, *, limit):
        seen.append((before, after))
        return np.zeros(0, np.int64)

    monkeypatch.setattr("repotune.evaluation.completions.fitted_prompt", prompt)
    text = "".join(f"line {number}\n" for number in range(1000))
    with pytest.raises(UsageError, match="nothing before"):
        complete(None, tokenizer, 500, text=text, limit=0)
    before, after = seen[0]
    assert (before.count("\n"), before[-8:]) == (255, "line 499")
    assert (after.count("\n"), after[-9:]) == (64, "line 562\n")


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        (9, None, "a.py has 4 lines, and line 9 was asked for"),
        (6, 1, "a.py has 4 lines, and line 6 was asked for"),
        (2, 14, "Line 2 of a.py has 12 characters, and column 14 was asked for: .* up to 13"),
        (1, 1, "nothing before line 1 of a.py"),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_numbers(line, column, said, decoder, tokenizer):
    with pytest.raises(UsageError, match=said):
        complete(decoder, tokenizer, line, column)


def test_the_end_of_the_file_is_a_place(decoder, tokenizer):
    one = complete(decoder, tokenizer, 5)
    assert one.truth == ""
    assert one.base == "cat\ncat\n"
    with pytest.raises(UsageError, match="nothing before line 1"):
        complete(decoder, tokenizer, 1, text="")
