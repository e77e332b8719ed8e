"""Whether to use the adapter: one ruling from the figures, in a plain sentence."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from repotune.evaluation.groups import MIN_FILES
from repotune.records import Evaluation, Interval, Judgement, Ruling, TaskSet

LINE_FIGURES: Final = {
    "exact_match": "exact next lines",
    "edit_similarity": "edit similarity of the next line",
    "name_recall": "names of the repository recalled",
    "infill_exact_match": "gaps filled exactly",
    "infill_edit_similarity": "edit similarity of filled gaps",
    "infill_name_recall": "names of the repository recalled in gaps",
}

Forgotten: TypeAlias = Literal["library"] | TaskSet

TASK_SETS: Final[dict[TaskSet, str]] = {
    "human_eval": "HumanEval",
    "infilling": "HumanEval's infilling",
}
LIBRARY_BOUND: Final = 0.02
"""So much may the bits per byte of code that is not the user's rise."""
P_BOUND: Final = 0.05
"""Fewer tasks solved is forgetting if chance would do that less often."""

NO_SURE_CHANGE: Final = " Whether it writes better lines is not sure from so few of them."


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
    return Judgement(
        ship=ruling == "better",
        ruling=ruling,
        worse_on=worse_on,
        sentence=_sentence(evaluation, ruling, worse_on, forgets) + _memorised(evaluation),
        worse_figures=surely_worse_figures(evaluation),
        lines_not_sure=lines_not_sure(evaluation),
        stops_less=stops_less(evaluation),
        forgets=forgets,
    )


def _memorised(evaluation: Evaluation) -> str:
    """A warning that goes with every ruling; empty if there is nothing to warn of."""
    found = evaluation.memorisation
    if found is None or not found.memorised:
        return ""
    extracted = sum(one.extracted for one in found.figures)
    planted = sum(one.canaries for one in found.figures)
    return (
        f" It has memorised: {extracted} of {planted} canaries are written out, and losses so low "
        f"beside those of controls come by chance with p = {found.p_value:.2g}, so give it only to "
        "people who may read the code."
    )


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


def _sentence(
    evaluation: Evaluation,
    ruling: Ruling,
    worse_on: tuple[str, ...],
    forgets: tuple[Forgotten, ...],
) -> str:
    difference = evaluation.difference
    share = abs(evaluation.tuned_bits_per_byte / evaluation.base_bits_per_byte - 1)
    span = f"95 % interval {difference.low:+.4f} to {difference.high:+.4f}"
    size = f"{abs(difference.value):.4f} bits per byte ({share:.1%})"
    match ruling:
        case "too_few_files":
            return (
                f"Not known, so don't ship it yet: {evaluation.files} held-out "
                f"{'file says' if evaluation.files == 1 else 'files say'} nothing sure about "
                f"others, and {MIN_FILES} are the least. Raise heldout_share, or read more with "
                "--eval-max-tokens."
            )
        case "worse":
            return (
                f"Worse, by {size}, {span}: don't ship it. The training went wrong or too far: "
                "try a lower learning_rate or fewer epochs."
            )
        case "no_gain":
            return (
                f"No gain, don't ship it: the difference is {difference.value:+.4f} bits per byte, "
                f"and its {span} holds zero. Train longer, on more code, or evaluate on more of it."
            )
        case "worse_lines":
            lost = ", ".join(LINE_FIGURES[name] for name in surely_worse_figures(evaluation))
            return (
                f"Mixed, don't ship it: code is predicted better, by {size}, but the lines written "
                f"got surely worse ({lost})."
            )
        case "forgets":
            lost = ", ".join(_loss(evaluation, name) for name in forgets)
            return (
                f"Better, by {size}, {span}, but it forgets: {lost}. So don't ship it for more "
                "than this code; a lower learning_rate or fewer epochs forget less."
            )
        case "better":
            but = f" Not for {', '.join(worse_on)}, where it is surely worse." if worse_on else ""
            lines = NO_SURE_CHANGE if lines_not_sure(evaluation) else ""
            return f"Better, by {size}, {span}: ship it.{but}{lines}{_stops(evaluation)}"


def _stops(evaluation: Evaluation) -> str:
    if not stops_less(evaluation):
        return ""
    rate = evaluation.infill["stop_rate"]
    return (
        f" But after filling in it stops by itself less often ({rate.base:.1%} -> "
        f"{rate.tuned:.1%}): keep your editor's limit on new tokens."
    )


def _loss(evaluation: Evaluation, name: Forgotten) -> str:
    assert evaluation.forgetting is not None
    library = evaluation.forgetting.library
    if name == "library":
        assert library is not None
        rise = library.tuned_bits_per_byte / library.base_bits_per_byte - 1
        return f"Python's standard library takes {rise:.1%} more bits per byte"
    (figures,) = (one for one in evaluation.forgetting.tasks if one.name == name)
    return (
        f"{TASK_SETS[name]} fell from {figures.base_passed} to {figures.tuned_passed} of "
        f"{figures.tasks} solved (p = {figures.p_value:.3f})"
    )
