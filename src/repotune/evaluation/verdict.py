"""Whether to use the adapter: one ruling from the figures, in a plain sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal, TypeAlias

from repotune.evaluation.groups import MIN_FILES
from repotune.records import Evaluation, Interval, Judgement, Ruling, TaskSet
from repotune.verdict_text import sentence

LINE_FIGURES: Final = (
    "exact_match", "edit_similarity", "name_recall",
    "infill_exact_match", "infill_edit_similarity", "infill_name_recall",
)  # fmt: skip
"""Of what is written: that none gets surely worse is a condition of a good verdict."""

Forgotten: TypeAlias = Literal["library"] | TaskSet

LIBRARY_BOUND: Final = 0.02
"""So much may the bits per byte of code that is not the user's rise."""
P_BOUND: Final = 0.05
"""Fewer tasks solved is forgetting if chance would do that less often."""


def judge(evaluation: Evaluation) -> Judgement:
    """The ruling on ``evaluation``, whose own judgement is not looked at.

    Better, if the whole 95 % interval of the difference in bits per byte is below zero, there are
    enough files for an interval, no figure of what is written has got surely worse, and nothing
    was forgotten beyond its bound. That it stops by itself less often is said, but forbids nothing.
    """
    forgets = forgotten(evaluation)
    ruling = _ruling(evaluation, forgets)
    worse_on = tuple(
        one.name
        for one in evaluation.groups
        if one.by == "language" and one.difference is not None and one.difference.low > 0
    )
    found = Judgement(
        ship=ruling == "better",
        ruling=ruling,
        worse_on=worse_on,
        sentence="",
        worse_figures=surely_worse_figures(evaluation),
        lines_not_sure=lines_not_sure(evaluation),
        stops_less=stops_less(evaluation),
        forgets=forgets,
    )
    return replace(found, sentence=sentence(evaluation, found))


def forgotten(evaluation: Evaluation) -> tuple[Forgotten, ...]:
    """What got worse beyond its bound, of code and tasks that are not the user's."""
    found: list[Forgotten] = []
    if evaluation.forgetting is not None:
        library = evaluation.forgetting.library
        if library is not None:
            rise = library.tuned_bits_per_byte / library.base_bits_per_byte - 1
            found += ["library"] if rise > LIBRARY_BOUND else []
        found += [
            one.name
            for one in evaluation.forgetting.tasks
            if one.lost > one.won and one.p_value < P_BOUND
        ]
    return tuple(found)


def surely_worse_figures(evaluation: Evaluation) -> tuple[str, ...]:
    """The figures of next lines and gaps whose whole interval is below zero."""
    return tuple(name for name, one in _differences(evaluation).items() if one.high < 0)


def lines_not_sure(evaluation: Evaluation) -> bool:
    """Whether figures of lines or gaps have intervals, and none has got surely better."""
    differences = _differences(evaluation).values()
    return bool(differences) and not any(one.low > 0 for one in differences)


def stops_less(evaluation: Evaluation) -> bool:
    """Whether the tuned model surely ends less often by itself after filling in."""
    rate = evaluation.infill.get("stop_rate")
    return rate is not None and rate.difference is not None and rate.difference.high < 0


def _differences(evaluation: Evaluation) -> dict[str, Interval]:
    """Those of ``LINE_FIGURES`` that have an interval."""
    gaps = {
        f"infill_{name}": one.difference
        for name, one in evaluation.infill.items()
        if one.difference is not None
    }
    both = {**evaluation.line_differences, **gaps}
    return {name: one for name, one in both.items() if name in LINE_FIGURES}


def _ruling(evaluation: Evaluation, forgets: tuple[Forgotten, ...]) -> Ruling:
    difference = evaluation.difference
    if evaluation.files < MIN_FILES:
        return "too_few_files"
    if difference.low > 0:
        return "worse"
    if difference.high >= 0:
        return "no_gain"
    if surely_worse_figures(evaluation):
        return "worse_lines"
    return "forgets" if forgets else "better"
