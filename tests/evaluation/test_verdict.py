"""One ruling for each way that an evaluation can come out."""

from dataclasses import replace

import pytest

from repotune.evaluation.groups import MIN_FILES
from repotune.evaluation.verdict import judge
from repotune.records import (
    Compared,
    Evaluation,
    Forgetting,
    GroupFigures,
    Interval,
    LibraryFigures,
    TaskFigures,
)

GOOD = Interval(value=-0.25, low=-0.3, high=-0.2)
BAD = Interval(value=0.25, low=0.2, high=0.3)
FOUND = Evaluation(
    files=12, files_available=14, tokens=30_000, bytes_scored=90_000, base_bits_per_byte=1.25,
    tuned_bits_per_byte=1.0, difference=GOOD, cursors=0, exact_match={}, edit_similarity={},
    completions=(), sampled="all",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "ruling", "said"),
    [
        (
            {},
            "better",
            "Better: ship it. 0.2500 bits per byte less (20.0%), and the whole 95 % interval, "
            "-0.3000 to -0.2000, is below zero.",
        ),
        ({"difference": BAD}, "worse", "0.2500 bits per byte more"),
        ({"difference": Interval(value=-0.1, low=-0.3, high=0.1)}, "no_gain", "holds zero"),
        ({"difference": Interval(value=0.0, low=0.0, high=0.0)}, "no_gain", "holds zero"),
        ({"files": 5}, "too_few_files", f"scored: 5. At least {MIN_FILES} are needed"),
        (
            {"line_differences": {"exact_match": Interval(value=-0.2, low=-0.3, high=-0.1)}},
            "worse_lines",
            "got surely worse: exact next lines -20.0 points (95 % interval -30.0 to -10.0). Try a "
            "lower learning_rate or fewer epochs.",
        ),
        ({"line_differences": {"exact_match": GOOD, "name_recall": BAD}}, "worse_lines", "exact"),
        (
            {"line_differences": {"exact_match": Interval(value=-0.1, low=-0.3, high=0.1)}},
            "better",
            "is below zero. Whether it writes better lines is not sure",
        ),
        (
            {"line_differences": {"exact_match": Interval(value=0.2, low=0.1, high=0.3)}},
            "better",
            "-0.2000, is below zero.",
        ),
    ],
)
def test_each_outcome_has_its_ruling_and_its_reason(changes, ruling, said):
    found = judge(replace(FOUND, **changes))
    assert found.ruling == ruling
    assert found.ship == (ruling == "better")
    assert said in found.sentence
    assert ("don't ship it" in found.sentence) != found.ship
    if said.endswith("below zero."):
        assert found.sentence.endswith(said)


def test_a_language_that_got_surely_worse_is_named():
    def group(name, difference, by="language"):
        return GroupFigures(
            by=by, name=name, files=7, bytes_scored=9, base_bits_per_byte=1.0,
            tuned_bits_per_byte=1.2, difference=difference,
        )  # fmt: skip

    groups = (
        group("C", BAD),
        group("Go", None),
        group("Python", GOOD),
        group("a", BAD, "directory"),
    )
    found = judge(replace(FOUND, groups=groups))
    assert found.ship
    assert found.worse_on == ("C",)
    assert found.sentence.endswith(
        "But use the base model for C (20.0% more bits per byte): there it is surely worse."
    )
    elsewhere = judge(replace(FOUND, groups=groups, difference=BAD))
    assert elsewhere.sentence.endswith(
        "Surely worse than the base model in C (20.0% more bits per byte)."
    )


def library(tuned):
    return LibraryFigures(
        files=24, near_duplicates=0, bytes_scored=48_000, base_bits_per_byte=1.0,
        tuned_bits_per_byte=tuned, difference=BAD,
    )  # fmt: skip


def solved(lost, won, p_value, name="human_eval"):
    return TaskFigures(
        name=name, tasks=164, available=164, base_passed=40, tuned_passed=40 - lost + won,
        lost=lost, won=won, p_value=p_value,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "tasks", "forgets"),
    [
        (None, (), ()),
        (1.0199, (solved(9, 2, 0.065),), ()),
        (0.9, (solved(2, 12, 0.013),), ()),
        (1.0201, (), ("library",)),
        (1.0, (solved(12, 2, 0.013),), ("human_eval",)),
        (1.03, (solved(9, 2, 0.065), solved(12, 2, 0.013, "infilling")), ("library", "infilling")),
    ],
)
def test_better_here_but_worse_elsewhere_is_no_ship(measured, tasks, forgets):
    figures = None if measured is None else library(measured)
    forgetting = Forgetting(library=figures, tasks=tasks, not_measured=())
    found = judge(replace(FOUND, forgetting=forgetting))
    assert found.forgets == forgets
    assert found.ruling == ("forgets" if forgets else "better")
    assert found.ship == (not forgets)
    if "library" in forgets:
        assert f"standard library takes {measured - 1:.1%} more bits" in found.sentence
    if "infilling" in forgets:
        assert (
            "HumanEval's infilling fell from 40 to 30 of 164 solved (p = 0.013)" in found.sentence
        )
    if forgets:
        assert found.sentence.startswith(
            "Better, but it forgets: don't ship it for more than this code. 0.2500 bits per byte "
        )
        assert "A lower learning_rate or fewer epochs forget less." in found.sentence


def test_what_a_ruling_does_not_say_itself_follows_it():
    """A model that forgets, is worse in C and stops less often: all three are said."""
    worse_in_c = GroupFigures(
        by="language", name="C", files=7, bytes_scored=9, base_bits_per_byte=1.0,
        tuned_bits_per_byte=1.2, difference=BAD,
    )  # fmt: skip
    forgetting = Forgetting(library=library(1.5), tasks=(solved(12, 2, 0.013),), not_measured=())
    one = replace(FOUND, groups=(worse_in_c,), infill=filled(stop_rate=LESS), forgetting=forgetting)
    for changes in ({}, {"difference": BAD}, {"files": 3}, {"infill": filled(exact_match=LESS)}):
        found = judge(replace(one, **changes))
        assert not found.ship
        for said in (
            "standard library takes 50.0% more bits per byte",
            "HumanEval fell from 40 to 30 of 164 solved (p = 0.013)",
            "C (20.0% more bits per byte)",
        ):
            assert found.sentence.count(said) == 1, changes
        said = "stops by itself less often (90.0% before, 50.0% now)"
        assert (said in found.sentence) is ("infill" not in changes)


def test_no_gain_stays_no_gain_whatever_was_forgotten():
    forgetting = Forgetting(library=library(1.5), tasks=(), not_measured=())
    found = judge(replace(FOUND, difference=BAD, forgetting=forgetting))
    assert (found.ruling, found.forgets) == ("worse", ("library",))


def filled(**differences):
    return {
        name: Compared(base=0.9, tuned=0.5, count=20, difference=one)
        for name, one in differences.items()
    }


LESS = Interval(value=-0.4, low=-0.5, high=-0.1)


def test_gaps_that_are_filled_surely_worse_forbid_it():
    found = judge(replace(FOUND, infill=filled(exact_match=LESS, edit_similarity=None)))
    assert (found.ruling, found.worse_figures) == ("worse_lines", ("infill_exact_match",))
    assert "gaps filled exactly -40.0 points (95 % interval -50.0 to -10.0)" in found.sentence
    assert "Try a higher fim_rate" in found.sentence
    taught = judge(replace(FOUND, infill=filled(exact_match=LESS), taught=True))
    assert "takes tens of thousands of gaps to learn it: train on more" in taught.sentence
    both = {"line_differences": {"exact_match": LESS}, "infill": filled(exact_match=LESS)}
    assert "lower learning_rate" in judge(replace(FOUND, **both)).sentence


@pytest.mark.parametrize(
    ("difference", "less"),
    [(LESS, True), (None, False), (Interval(value=-0.4, low=-0.5, high=0.0), False)],
)
def test_stopping_less_often_is_said_and_forbids_nothing(difference, less):
    found = judge(replace(FOUND, infill=filled(stop_rate=difference)))
    assert found.ship
    assert found.stops_less is less
    said = "stops by itself less often (90.0% before, 50.0% now)"
    assert (said in found.sentence) is less
