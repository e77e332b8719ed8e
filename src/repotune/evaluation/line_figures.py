"""What the completions of base and tuned are worth, in figures with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np
from rapidfuzz import fuzz

from repotune.evaluation.bootstrap import paired_interval
from repotune.evaluation.groups import MIN_FILES, By
from repotune.evaluation.names import names_of
from repotune.records import Compared, Completion, LineGroup

Model: TypeAlias = Literal["base", "tuned"]
Figure: TypeAlias = Callable[[Completion, Model], tuple[float, int]]
"""Of what a model wrote: a sum, and of how many."""


def exact_match(written: str, truth: str) -> bool:
    """Whether the two are the same but for white space around them, as CrossCodeEval asks."""
    return written.strip() == truth.strip()


def edit_similarity(written: str, truth: str) -> float:
    """How alike the two stripped texts are, 0 to 1: CrossCodeEval's ``fuzz.ratio`` / 100."""
    return fuzz.ratio(written.strip(), truth.strip()) / 100


def _text(one: Completion, model: Model) -> str:
    return one.base if model == "base" else one.tuned


def _exact(one: Completion, model: Model) -> tuple[float, int]:
    return float(exact_match(_text(one, model), one.truth)), 1


def _alike(one: Completion, model: Model) -> tuple[float, int]:
    return edit_similarity(_text(one, model), one.truth), 1


def _named(one: Completion, model: Model) -> tuple[float, int]:
    return float(len(set(one.names) & names_of(_text(one, model)))), len(one.names)


def _ended(one: Completion, model: Model) -> tuple[float, int]:
    return float(one.base_ended if model == "base" else one.tuned_ended), 1


NEXT_LINE: Final[Mapping[str, Figure]] = {
    "exact_match": _exact, "edit_similarity": _alike, "name_recall": _named,
}  # fmt: skip
INFILL: Final[Mapping[str, Figure]] = {**NEXT_LINE, "stop_rate": _ended}
"""A next line is over at its end, whatever the model would write then; a gap is not."""


def compared(
    completions: Sequence[Completion], figures: Mapping[str, Figure], *, seed: int
) -> dict[str, Compared]:
    """Each figure over all completions, with a paired bootstrap over their files.

    A figure of which nothing says anything is left out; with fewer than six files that do, it has
    no interval.
    """
    found = {}
    for name, figure in figures.items():
        files: dict[str, list[tuple[float, float, int]]] = {}
        for one in completions:
            (base, size), (tuned, _) = figure(one, "base"), figure(one, "tuned")
            if size:
                files.setdefault(one.path, []).append((base, tuned, size))
        if not files:
            continue
        sums = np.array([np.sum(of_file, axis=0) for of_file in files.values()])
        bases, tuneds, sizes = sums.T
        found[name] = Compared(
            base=float(bases.sum() / sizes.sum()),
            tuned=float(tuneds.sum() / sizes.sum()),
            count=int(sizes.sum()),
            difference=paired_interval(bases, tuneds, sizes, seed=seed)
            if len(files) >= MIN_FILES
            else None,
        )
    return found


def line_groups(
    next_lines: Sequence[Completion],
    infills: Sequence[Completion],
    where: Mapping[By, Mapping[str, str]],
    *,
    seed: int,
) -> tuple[LineGroup, ...]:
    """The figures by language, then by directory; ``where`` says in which group a path is."""
    groups = []
    for by, group_of in where.items():
        counts: dict[str, int] = {}
        for one in (*next_lines, *infills):
            counts[group_of[one.path]] = counts.get(group_of[one.path], 0) + 1
        for name in sorted(counts, key=lambda name: (-counts[name], name)):
            lines, gaps = (
                [one for one in some if group_of[one.path] == name]
                for some in (next_lines, infills)
            )
            groups.append(
                LineGroup(
                    by=by,
                    name=name,
                    next_line=compared(lines, NEXT_LINE, seed=seed),
                    infill=compared(gaps, INFILL, seed=seed),
                )
            )
    return tuple(groups)
