"""Whether to use the adapter: one ruling from the figures, in a plain sentence."""

from __future__ import annotations

from typing import Final

from repotune.evaluation.groups import MIN_FILES
from repotune.records import Evaluation, Judgement, Ruling

LINE_FIGURES: Final = {
    "exact_match": "exact next lines",
    "edit_similarity": "edit similarity of the next line",
    "name_recall": "names of the repository recalled",
}

NO_SURE_CHANGE: Final = " Whether it writes better lines is not sure from so few of them."


def judge(evaluation: Evaluation) -> Judgement:
    """The ruling on ``evaluation``, whose own judgement is not looked at.

    Better, if the whole 95 % interval of the difference in bits per byte is below zero, there are
    enough files for an interval, and no figure of the next lines has got surely worse.
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
        sentence=_sentence(evaluation, ruling, worse_on) + _memorised(evaluation),
    )


def _memorised(evaluation: Evaluation) -> str:
    """A warning that goes with every ruling; empty if there is nothing to warn of."""
    found = evaluation.memorisation
    if found is None or not found.memorised:
        return ""
    extracted = sum(one.extracted for one in found.figures)
    planted = sum(one.canaries for one in found.figures)
    return (
        f" It has memorised: {extracted} of {planted} canaries are written out, and their losses "
        f"are lower than those of controls (p = {found.p_value:.2g}), so give it only to people "
        "who may read the code."
    )


def surely_worse_lines(evaluation: Evaluation) -> tuple[str, ...]:
    """The figures of the next lines whose whole interval is below zero."""
    differences = evaluation.line_differences
    return tuple(name for name, one in differences.items() if one.high < 0)


def surely_better_lines(evaluation: Evaluation) -> bool:
    """Whether a figure of the next lines has got surely better, or none has an interval."""
    differences = evaluation.line_differences.values()
    return not differences or any(one.low > 0 for one in differences)


def _ruling(evaluation: Evaluation) -> Ruling:
    difference = evaluation.difference
    if evaluation.files < MIN_FILES:
        return "too_few_files"
    if difference.low > 0:
        return "worse"
    if difference.high >= 0:
        return "no_gain"
    return "worse_lines" if surely_worse_lines(evaluation) else "better"


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
            lost = ", ".join(LINE_FIGURES[name] for name in surely_worse_lines(evaluation))
            return (
                f"Mixed, don't ship it: code is predicted better, by {size}, but the lines written "
                f"got surely worse ({lost})."
            )
        case "better":
            but = f" Not for {', '.join(worse_on)}, where it is surely worse." if worse_on else ""
            lines = "" if surely_better_lines(evaluation) else NO_SURE_CHANGE
            return f"Better, by {size}, {span}: ship it.{but}{lines}"
