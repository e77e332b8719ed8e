"""Figures of completions whose worth is known."""

import pytest
from rapidfuzz.distance import Indel

from repotune.evaluation.line_figures import (
    INFILL,
    NEXT_LINE,
    compared,
    edit_similarity,
    exact_match,
    line_groups,
)
from repotune.records import Completion, Interval


def completion(base, tuned, truth, path="a.py", names=(), **more):
    return Completion(
        path=path,
        line=1,
        prompt_tail="",
        truth=truth,
        base=base,
        tuned=tuned,
        names=names,
        **more,
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


def shares(found):
    return {name: (one.base, one.tuned, one.count) for name, one in found.items()}


def test_figures_are_means_and_those_that_tell_come_first():
    both, none = completion("x", "x", "x", "both"), completion("y", "z", "x", "none")
    only_tuned = completion("y", " x", "x", "tuned")
    found = compared([both, none, only_tuned, both], NEXT_LINE, seed=0)
    assert shares(found) == {"exact_match": (0.5, 0.75, 4), "edit_similarity": (0.5, 0.75, 4)}
    assert compared([], NEXT_LINE, seed=0) == {}


def test_names_are_recalled_as_whole_words_and_counted_over_all_lines():
    names = ("Basket", "total")
    one = completion("basket.totals()", "Basket().total", "Basket.total", names=names)
    other = completion("total", "x", "total", names=("total",))
    found = compared([one, other, completion("a", "b", "c")], NEXT_LINE, seed=0)
    assert shares(found)["name_recall"] == (1 / 3, 2 / 3, 3)


def test_the_stop_rate_counts_what_ended_by_itself():
    gaps = [
        completion("x", "x", "x", f"{i}.py", base_ended=True, tuned_ended=i < 3) for i in range(6)
    ]
    found = compared(gaps, INFILL, seed=0)
    assert shares(found)["stop_rate"] == (1.0, 0.5, 6)
    difference = found["stop_rate"].difference
    assert difference.low < difference.value == -0.5 < difference.high


def test_differences_of_lines_are_paired_by_file_and_need_six():
    def intervals(some):
        found = compared(some, NEXT_LINE, seed=1)
        return {name: one.difference for name, one in found.items()}

    lines = [completion("x", "abcd", "abcd", f"{i}.py", ("abcd",)) for i in range(6)]
    one = Interval(value=1.0, low=1.0, high=1.0)
    assert intervals(lines) == {"exact_match": one, "edit_similarity": one, "name_recall": one}
    assert set(intervals(lines[:5] * 2).values()) == {None}
    # a file without a name to recall says nothing of that, but of the lines
    lines[5] = completion("x", "x", "x", "5.py")
    some = intervals(lines)
    assert some["name_recall"] is None
    assert some["exact_match"].value == pytest.approx(5 / 6)
    assert some["exact_match"].low < 5 / 6 < some["exact_match"].high


def test_groups_have_the_figures_of_their_files_alone_the_largest_first():
    lines = [completion("y", "x", "x", path) for path in ("a/1.py", "b/1.py", "b/2.py")]
    gaps = [completion("x", "y", "x", "b/3.c")]
    paths = [one.path for one in (*lines, *gaps)]
    where = {
        "language": {path: path.partition(".")[2] for path in paths},
        "directory": {path: path[0] for path in paths},
    }
    found = line_groups(lines, gaps, where, seed=0)
    assert [(one.by, one.name) for one in found] == [
        ("language", "py"), ("language", "c"), ("directory", "b"), ("directory", "a"),
    ]  # fmt: skip
    assert found[1].next_line == {}
    assert found[2].next_line == compared(lines[1:], NEXT_LINE, seed=0)
    assert shares(found[2].infill)["exact_match"] == (1.0, 0.0, 1)
    assert found[3].infill == {}
