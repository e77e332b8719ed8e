"""What an evaluation is made of: figures of base and tuned, and what both wrote at a place."""

from __future__ import annotations

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
