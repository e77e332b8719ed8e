"""Where next lines are asked for."""

from collections import Counter

import pytest

from repotune.evaluation.cursors import draw_cursors, draw_gaps, is_code

from .tiny import document

TEXT = """import os

def total(items):
    # sum of all

    result = 0
    for item in items:
        result += item

    return result
}
"""


def places(text, path="a.py"):
    found = draw_cursors([document(path, text)], max_cursors=100, seed=0)
    return {cursor.line: cursor for cursor in found}


def test_a_cursor_stands_after_a_line_and_before_a_line_of_code():
    found = places(TEXT)
    # not 1 and 2 (too little above), 3 (a comment follows), 4 and 8 (blank follows),
    # 5 and 9 (blank themselves), 10 (only a bracket follows), 11 (nothing follows)
    assert set(found) == {6, 7}
    assert found[6].prefix == "".join(TEXT.splitlines(keepends=True)[:6])
    assert found[6].truth == "    for item in items:"
    assert found[6].path == "a.py"


def test_white_space_at_the_end_of_the_truth_is_dropped():
    assert places("a\nb\nc\n\td = 1 \t\n")[3].truth == "\td = 1"


@pytest.mark.parametrize(
    "line",
    [
        "return x", "    *pointer = 3;", "--count;", "#include <stdio.h>", "#[derive(Debug)]",
        "# define X 1", "end", "한글 = 1",
    ],
)  # fmt: skip
def test_code(line):
    assert is_code(line)


@pytest.mark.parametrize(
    "line",
    [
        "", "   ", "});", "]", "# a comment", "  // a comment", "/* a comment", " * a comment",
        " */", "-- a comment", ";; a comment", "% a comment", "<!-- a comment -->",
        '"""A docstring."""',
    ],
)  # fmt: skip
def test_no_code(line):
    assert not is_code(line)


def many(files):
    return [
        document(f"{i:02}.py", "\n".join(f"x{n} = {n}" for n in range(20))) for i in range(files)
    ]


def test_cursors_are_spread_evenly_over_files_and_differ():
    found = draw_cursors(many(5), max_cursors=12, seed=0)
    assert len({(one.path, one.line) for one in found}) == 12
    assert sorted(Counter(one.path for one in found).values()) == [2, 2, 2, 3, 3]
    # a file without places leaves its share to the others
    found = draw_cursors([*many(2), document("no.py", "x\n")], max_cursors=9, seed=0)
    assert sorted(Counter(one.path for one in found).values()) == [4, 5]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_files():
    one = draw_cursors(many(9), max_cursors=6, seed=0)
    assert one == draw_cursors(many(9)[::-1], max_cursors=6, seed=0)
    assert one != draw_cursors(many(9), max_cursors=6, seed=1)


def test_no_more_than_there_are():
    assert draw_cursors([], max_cursors=5, seed=0) == []
    assert draw_cursors([document("a.py", TEXT)], max_cursors=0, seed=0) == []
    assert len(draw_cursors([document("a.py", TEXT)], max_cursors=50, seed=0)) == 2
    assert draw_gaps([], max_gaps=5, seed=0) == draw_gaps(many(2), max_gaps=0, seed=0) == []


def test_gaps_of_each_kind_are_cut_out_of_the_file_and_nothing_else():
    documents = [document("a.py", TEXT), *many(6)]
    texts = {one.path: one.text for one in documents}
    found = draw_gaps(documents, max_gaps=60, seed=0)
    assert found == draw_gaps(documents[::-1], max_gaps=60, seed=0)
    assert found != draw_gaps(documents, max_gaps=60, seed=1)
    for one in found:
        assert one.prefix + one.truth + one.suffix == texts[one.path]
        assert one.line == one.prefix.count("\n") + 1 > 3
        assert one.suffix.startswith("\n")
        assert any(map(is_code, one.suffix.split("\n")))
        before, lines = one.prefix.rpartition("\n")[2], one.truth.split("\n")
        assert is_code(lines[-1])
        if one.gap == "rest_of_line":
            assert before.strip()
            assert len(lines) == 1
        else:
            assert before == ""
            assert len(lines) in {"line": (1,), "lines": (2, 3, 4)}[one.gap]
    counts = Counter(one.gap for one in found)
    assert set(counts) == {"rest_of_line", "line", "lines"}
    assert max(counts.values()) - min(counts.values()) <= 10


def test_a_gap_begins_and_ends_on_code_that_has_code_behind_it():
    lines = {one.line for one in draw_gaps([document("a.py", TEXT)], max_gaps=50, seed=0)}
    assert lines == {6, 7, 8}  # neither the last line of code nor those above the fourth


def test_white_space_behind_a_gap_stays_behind_it():
    text = "a\nb\nc\n    value = 1  \nend\n"
    (one,) = draw_gaps([document("a.py", text)], max_gaps=9, seed=0)
    assert one.truth.endswith("1")
    assert one.suffix == "  \nend\n"
