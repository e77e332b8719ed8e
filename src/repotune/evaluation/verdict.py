"""Whether to use the adapter: one ruling from the figures, in a plain sentence."""

from __future__ import annotations

from typing import Final

from repotune.evaluation.groups import MIN_FILES
from repotune.records import Evaluation, Interval, Judgement, Ruling

LINE_FIGURES: Final = {
    "exact_match": "exact next lines",
    "edit_similarity": "edit similarity of the next line",
    "name_recall": "names of the repository recalled",
    "infill_exact_match": "gaps filled exactly",
    "infill_edit_similarity": "edit similarity of filled gaps",
    "infill_name_recall": "names of the repository recalled in gaps",
}

NO_SURE_CHANGE: Final = " Whether it writes better lines is not sure from so few of them."


def judge(evaluation: Evaluation) -> Judgement:
    """The ruling on ``evaluation``, whose own judgement is not looked at.

    Better, if the whole 95 % interval of the difference in bits per byte is below zero, there are
    enough files for an interval, and no figure of what is written has got surely worse. That it
    stops by itself less often is said, but forbids nothing.
    """
    ruling = _ruling(evaluation)
    worse_on = tuple(
        one.name
        for one in evaluation.groups
        if one.by == "language" and one.difference is not None and one.difference.low > 0
    )
    return Judgement(
        ship=ruling == "better",
        ruling=ruling,
        worse_on=worse_on,
        sentence=_sentence(evaluation, ruling, worse_on),
        worse_figures=surely_worse_figures(evaluation),
        lines_not_sure=lines_not_sure(evaluation),
        stops_less=stops_less(evaluation),
    )


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


def _ruling(evaluation: Evaluation) -> Ruling:
    difference = evaluation.difference
    if evaluation.files < MIN_FILES:
        return "too_few_files"
    if difference.low > 0:
        return "worse"
    if difference.high >= 0:
        return "no_gain"
    return "worse_lines" if surely_worse_figures(evaluation) else "better"


def _sentence(evaluation: Evaluation, ruling: Ruling, worse_on: tuple[str, ...]) -> str:
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
