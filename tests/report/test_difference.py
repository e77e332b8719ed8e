"""Both texts can be read back from the difference, unless they have nothing in common."""

import pytest

from repotune.report.difference import difference


@pytest.mark.parametrize(
    ("truth", "written"),
    [
        ("return self.total", "return self.total()"),
        ("a = b + c", "a = b - c"),
        ("for x in items:", "for item in items:"),
        ("한글 = 값", "한글 = 다른 값"),
        ("same", "same"),
    ],
)
def test_both_texts_are_in_it(truth, written):
    parts = difference(truth, written)
    assert "".join(text for kind, text in parts if kind != "missing") == written
    assert "".join(text for kind, text in parts if kind != "written") == truth


def test_words_are_the_unit():
    assert difference("x = total", "x = totals") == (
        ("same", "x = "),
        ("missing", "total"),
        ("written", "totals"),
    )


def test_what_goes_on_behind_the_truth_is_right_up_to_there():
    rest = "\n    y = 2" * 50
    assert difference("x = 1", f"x = 1{rest}") == (("same", "x = 1"), ("written", rest))
    assert difference("x = 1", "x = 1") == (("same", "x = 1"),)


def test_what_has_nothing_in_common_is_one_part():
    assert difference("return 1", "while True:") == (("written", "while True:"),)
    assert difference("return 1", "") == (("written", ""),)
