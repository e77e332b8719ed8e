"""Next lines and completions at a place, by models of which every next token is known."""

import numpy as np
import pytest

from repotune.errors import UsageError
from repotune.evaluation import complete_at
from repotune.evaluation.completions import write_infills, write_next_lines
from repotune.evaluation.cursors import Cursor
from repotune.events import StageProgress

from .tiny import BYTES, EOS, FIM, Bigrams, chain, make_tokenizer

C, D = BYTES + ord("c"), BYTES + ord("d")


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


def test_cursors_beyond_one_batch_are_all_written_and_counted(decoder, tokenizer):
    cursors = [
        Cursor(path="a.py", line=n, prefix="x\n" * n, truth="cat") for n in range(1, 36)
    ]  # fmt: skip
    events = []
    found = write_next_lines(
        decoder, tokenizer, cursors, defined=frozenset(), max_seq_length=64, max_line_tokens=8,
        stage="s", emit=events.append,
    )  # fmt: skip
    assert [(one.line, one.base, one.tuned) for one in found] == [
        (n, "cat", "cog") for n in range(1, 36)
    ]
    assert events == [StageProgress(stage="s", done=32), StageProgress(stage="s", done=35)]


def test_gaps_are_filled_until_the_model_says_that_this_is_all(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer", fim=True)
    # after the id that asks for the middle: base "cd" and the end, tuned "c" to the limit
    table = {**chain("cd"), FIM[2]: C, D: EOS}
    decoder = Bigrams(base=table, tuned={C: FIM[2]}).decoder(tmp_path / "model")
    gap = Cursor(
        path="a.py", line=3, prefix="a\nb\nx = ", truth="cd", gap="rest_of_line",
        suffix="\ncog\n1\n2\n3\n",
    )  # fmt: skip
    (one,) = write_infills(
        decoder, tokenizer, [gap], defined=frozenset({"cd", "cog"}), max_seq_length=64,
        max_gap_tokens=6, stage="s", emit=lambda event: None,
    )  # fmt: skip
    assert (one.base, one.base_ended) == ("cd", True)
    assert (one.tuned, one.tuned_ended) == ("c" * 6, False)
    assert (one.gap, one.line, one.truth, one.names) == ("rest_of_line", 3, "cd", ("cd",))
    assert (one.prompt_tail, one.suffix_head) == ("a\nb\nx = ", "\ncog\n1")


def test_a_base_that_was_not_taught_to_fill_in_reads_on_and_is_told_the_lines(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer", fim=True)
    tokenizer.added_ids = tuple(FIM)
    # from left to right "cd" and a line's end, after the id that asks for the middle "d" first
    decoder = Bigrams(base={**chain(" cd\n"), FIM[2]: D}, tuned={C: D}).decoder(tmp_path / "model")
    gap = Cursor(
        path="a.py", line=3, prefix="a\nb\nx = ", truth="cd", gap="rest_of_line",
        suffix="\ncog\n1\n2\n3\n",
    )  # fmt: skip
    (one,) = write_infills(
        decoder, tokenizer, [gap], defined=frozenset(), max_seq_length=64, max_gap_tokens=6,
        stage="s", emit=lambda event: None,
    )  # fmt: skip
    assert one.base == "cd"
    assert one.tuned.startswith("d\n")


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


def test_an_answer_leaves_half_of_the_room_to_the_prompt(decoder, tokenizer):
    with pytest.raises(UsageError, match=r"--max-new-tokens 33 .* of the 64 tokens .* most 32"):
        complete(decoder, tokenizer, 2, limit=33)


def test_the_end_of_the_file_is_a_place(decoder, tokenizer):
    one = complete(decoder, tokenizer, 5)
    assert one.truth == ""
    assert one.base == "cat\ncat\n"
    with pytest.raises(UsageError, match="nothing before line 1"):
        complete(decoder, tokenizer, 1, text="")
