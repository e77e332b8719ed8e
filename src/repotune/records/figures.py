"""What an evaluation is made of: figures of base and tuned, and what both wrote at a place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % interval (paired bootstrap over files)."""

    value: float
    low: float
    high: float


Gap: TypeAlias = Literal["next_line", "rest_of_line", "line", "lines"]
"""What is to be written: the line after the cursor, of which no model sees what follows, or what
was cut out between code that both see (fill in the middle)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One held-out cursor: what stood there, and what base and tuned wrote."""

    path: str
    line: int
    prompt_tail: str
    """The last lines before the cursor."""
    truth: str
    base: str
    tuned: str
    names: tuple[str, ...] = ()
    """Names in ``truth`` that the training files define and the code in the prompt lacks."""
    gap: Gap = "next_line"
    suffix_head: str = ""
    """The first lines after a gap."""
    base_ended: bool = False
    tuned_ended: bool = False
    """Whether it ended by itself, with a token that says so, before the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of base and tuned, over the same places in the same files."""

    base: float
    tuned: float
    count: int
    """Of what the figure is a share or a mean of: completions, or names."""
    difference: Interval | None
    """Tuned minus base; None where there are too few files for an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineGroup:
    """What was written in the files of one language or one directory."""

    by: Literal["language", "directory"]
    name: str
    next_line: dict[str, Compared]
    """See ``Evaluation.line_differences`` for the names."""
    infill: dict[str, Compared]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """Base against tuned on the files of one language or one directory."""

    by: Literal["language", "directory"]
    name: str
    files: int
    bytes_scored: int
    base_bits_per_byte: float
    tuned_bits_per_byte: float
    difference: Interval | None
    """None where there are too few files for an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryFigures:
    """Base against tuned on files of Python's standard library: code that is not the user's."""

    files: int
    near_duplicates: int
    """Files left out because a training file is nearly the same."""
    bytes_scored: int
    base_bits_per_byte: float
    tuned_bits_per_byte: float
    difference: Interval
    """Tuned minus base, bits per byte; above zero is forgetting."""


TaskSet: TypeAlias = Literal["human_eval", "infilling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFigures:
    """How many programming tasks base and tuned solved, by the tasks' own tests."""

    name: TaskSet
    tasks: int
    """Solved or not by both models, greedily; drawn by the seed if fewer than ``available``."""
    available: int
    base_passed: int
    tuned_passed: int
    lost: int
    """Solved by the base alone."""
    won: int
    """Solved by the tuned model alone."""
    p_value: float
    """McNemar's exact test of ``lost`` against ``won``, two-sided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """What the tuned model can no longer do that the base could, on code that is not the user's."""

    library: LibraryFigures | None
    tasks: tuple[TaskFigures, ...]
    not_measured: tuple[str, ...]
    """Sentences: what was not measured, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFigures:
    """How well the tuned model knows the canaries that were put in equally often."""

    repeats: int
    canaries: int
    exposure: float
    """Mean, in bits (Carlini et al. 2019, arXiv 1802.08232): log2 of the number of candidates over
    the canary's rank among itself and the controls."""
    p_value: float
    """Of the rank test against the controls: how likely so low losses are by chance."""
    extracted: int
    """So many secrets the model writes out by itself after the prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation:
    """Canaries against controls that were never in the training files."""

    controls: int
    figures: tuple[CanaryFigures, ...]
    """By repeats, ascending."""
    p_value: float
    """Of all canaries together and of those that were put in equally often: the lowest, times the
    number of tests."""
    memorised: bool
    """Whether a secret is written out, or the losses are too low for chance."""

    @property
    def exposure_by_chance(self) -> float:
        """What a line that was never learned has on average, whose rank is drawn from all there
        are, in bits: log2(e) for many controls, less for few."""
        ranks = range(1, self.controls + 2)
        return math.log2(len(ranks)) - sum(map(math.log2, ranks)) / len(ranks)
