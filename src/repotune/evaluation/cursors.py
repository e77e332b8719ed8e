"""Places in held-out files where the next line is to be written, or a gap to be filled."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np

from repotune.records import Document, Gap

LINES_BEFORE = 3
"""A cursor has at least this many lines above it, its own included: some context to go on."""

_DRAW, _GAP_DRAW = 3, 4
"""Keep these draws apart from others of the same seed."""

GAPS: Final[tuple[Gap, ...]] = ("rest_of_line", "line", "lines")
MAX_GAP_LINES = 4

# What a line starts with that is a comment or a docstring, in the languages that the corpus knows.
# It only decides which lines are drawn: a preprocessor's line (#include) or an attribute (#[test])
# may be, a line that merely looks like a comment is passed over.
_COMMENT = re.compile(
    r"//|/\*|\*(?:\s|/|$)|<!--|--(?:\s|$)|;+(?:\s|$)|%+(?:\s|$)|\"\"\"|'''"
    r"|#(?!\[|\s*(?:define|elif|else|endif|error|if|ifdef|ifndef|import|include|pragma|undef)\b)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place where something is to be written."""

    path: str
    line: int
    """1-based: the line that the cursor stands at the end of, or the one in which a gap begins."""
    prefix: str
    """The file up to the cursor."""
    truth: str
    """The next line or what fills the gap, without white space at its end."""
    gap: Gap = "next_line"
    suffix: str | None = None
    """The file after the gap; None: the cursor is followed by nothing that a model may see."""


def draw_cursors(documents: Sequence[Document], *, max_cursors: int, seed: int) -> list[Cursor]:
    """At most ``max_cursors`` places, as evenly over the files as they allow, drawn by ``seed``.

    A place is the end of a line with something on it, followed by a line of code: not blank, not
    only brackets, not a comment.
    """
    return _draw(documents, _next_lines, max_cursors, (seed, _DRAW))


def draw_gaps(documents: Sequence[Document], *, max_gaps: int, seed: int) -> list[Cursor]:
    """At most ``max_gaps`` gaps, drawn as cursors are; each kind about as often as the others.

    From a place inside a line to its end, a whole line, or two to four; each begins and ends on a
    line of code, and there is code behind it.
    """
    return _draw(documents, _gaps, max_gaps, (seed, _GAP_DRAW))


def _draw(
    documents: Sequence[Document],
    places: Callable[[Document, np.random.Generator], Iterator[Cursor]],
    count: int,
    seed: tuple[int, int],
) -> list[Cursor]:
    by_path = sorted(documents, key=lambda document: document.path)
    generator = np.random.default_rng(seed)
    files: deque[Iterator[Cursor]] = deque(
        places(by_path[index], np.random.default_rng(int(generator.integers(2**62))))
        for index in generator.permutation(len(by_path))
    )
    found: list[Cursor] = []
    while files and len(found) < count:
        file = files.popleft()
        cursor = next(file, None)
        if cursor is not None:
            found.append(cursor)
            files.append(file)
    return found


def _next_lines(document: Document, generator: np.random.Generator) -> Iterator[Cursor]:
    """All places of a file in a random order; nothing is computed before the first is asked for."""
    lines = document.text.split("\n")
    places = [
        index
        for index in range(LINES_BEFORE - 1, len(lines) - 1)
        if lines[index].strip() and is_code(lines[index + 1])
    ]
    for index in generator.permutation(places):
        yield Cursor(
            path=document.path,
            line=int(index) + 1,
            prefix="\n".join([*lines[: index + 1], ""]),
            truth=lines[index + 1].rstrip(),
        )


def _gaps(document: Document, generator: np.random.Generator) -> Iterator[Cursor]:
    """One gap at each line of code of a file, in a random order, the kinds in turn."""
    lines = document.text.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    code_ends = max((i for i, line in enumerate(lines) if is_code(line)), default=0)
    places = [i for i in range(LINES_BEFORE, code_ends) if is_code(lines[i])]
    turn = int(generator.integers(len(GAPS)))
    for index in generator.permutation(places).tolist():
        gap = GAPS[turn % len(GAPS)]
        begin, last = starts[index], index
        if gap == "rest_of_line":
            begin = starts[index] + _inside(lines[index], generator)
        elif gap == "lines":
            last = index + int(generator.integers(1, MAX_GAP_LINES))
        if last >= code_ends or not is_code(lines[last]):
            continue
        end = starts[last] + len(lines[last].rstrip())
        turn += 1
        yield Cursor(
            path=document.path,
            line=index + 1,
            prefix=document.text[:begin],
            truth=document.text[begin:end],
            gap=gap,
            suffix=document.text[end:],
        )


def _inside(line: str, generator: np.random.Generator) -> int:
    """A column after which something of the line's code stands, and before which also, if it can.

    What is left holds a letter or a digit: a bracket is no question.
    """
    first = len(line) - len(line.lstrip())
    last = max(place for place, character in enumerate(line) if character.isalnum())
    return int(generator.integers(min(first + 1, last), last + 1))


def is_code(line: str) -> bool:
    """Whether there is more on ``line`` than brackets or a comment."""
    return any(map(str.isalnum, line)) and _COMMENT.match(line.lstrip()) is None
