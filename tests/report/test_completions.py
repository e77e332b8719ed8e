"""The sample is blind to what was written; a gap shows both its sides."""

import html
import re
from dataclasses import replace

import pytest

from repotune.records import Completion
from repotune.report.completions import SHOWN, completions, sample

from .runs import BARE, EVALUATION, RUN


def places(count, gap="next_line", **written):
    return tuple(
        Completion(
            path=f"file{n % 7}.py", line=n, prompt_tail="x = 1\n", truth="y = 2", gap=gap,
            **{"base": "", "tuned": "y = 2", **written},
        )
        for n in range(count)
    )  # fmt: skip


def page(lines=(), gaps=(), **changes):
    evaluation = replace(EVALUATION, completions=lines, infills=gaps, **changes)
    return completions(replace(RUN, evaluation=evaluation), "en")


def test_the_sample_is_the_same_whatever_was_written_and_in_whatever_order():
    good, bad = places(50), places(50, tuned="nothing", base="y = 2")
    drawn = [(one.path, one.line) for one in sample(good, 10)]
    assert drawn == [(one.path, one.line) for one in sample(bad[::-1], 10)]
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 10
    assert drawn != [(one.path, one.line) for one in sorted(good, key=lambda one: one.path)[:10]]
    assert len(sample(good, 99)) == 50


@pytest.mark.parametrize(
    ("lines", "gaps", "shown"),
    [(30, 18, (10, 10)), (30, 4, (16, 4)), (3, 18, (3, 17)), (30, 0, (20, 0)), (0, 5, (0, 5))],
)
def test_twenty_are_shown_half_of_them_gaps_where_there_are_as_many(lines, gaps, shown):
    found = page(places(lines), places(gaps, "line"))
    assert found.count("<article") == sum(shown) <= SHOWN
    assert found.count("<small>one line</small>") == shown[1]
    for count, part in zip((lines, gaps), shown, strict=True):
        said = f"{part} of {count}. Exactly right: base 0, tuned {part} of these; base 0, tuned"
        assert (said in found) is (count > 0)


def test_a_gap_stands_between_what_is_before_and_after_it():
    found = completions(RUN, "en")
    articles = re.findall(r"<article.*?</article>", found, re.DOTALL)
    (article,) = (one for one in articles if "장바구니.py:5" in one)
    shown = re.sub(r"<[^>]+>", "|", article)
    before, truth, base, tuned, after = (
        shown.index(one)
        for one in ("def total(self):", "In the file", "Base", "Tuned", html.escape("</code>"))
    )
    assert before < truth < base < tuned < after
    assert "several lines" in article
    assert "<code>one = 1\nreturn one</code>" in article  # not so far to the right
    assert "one = <del>1" in article
    assert article.count("✓ right") == 1
    assert 'def total(self):\n<span class="cursor">' in article
    rest = found[found.index("cart.py:2") :]
    assert "x = math.<span" in rest
    assert "did not stop" in rest


def test_code_deep_in_its_file_is_shown_at_the_left():
    deep = Completion(
        path="a.py", line=9, prompt_tail="            if x:\n                y = 1\n",
        truth="                z = 2\n            w = 3", base="q = 1\n            r = 2", tuned="",
        gap="lines", suffix_head="\n        return w",
    )  # fmt: skip
    found = page((), (deep,))
    assert ">    if x:\n        y = 1\n<span" in found
    assert "<code>return w</code>" in found
    assert "<code>z = 2\n            w = 3</code>" in found  # a line less deep than the first


def test_a_base_that_was_not_taught_is_not_blamed():
    assert "The base model was never taught to fill in" in completions(RUN, "en")
    gaps = places(3, "line", base="wrong", tuned="wrong")
    assert page((), gaps, taught=True).count("did not stop") == 3  # the tuned model alone
    other = page((), gaps, taught=False)
    assert other.count("did not stop") == 6
    assert "never taught" not in other


def test_without_anything_written_that_is_said_and_without_an_evaluation_nothing():
    assert "Nothing was written." in page()
    assert completions(BARE, "en") == ""
