"""Places in held-out files where the next line is to be written."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repotune.records import Document

LINES_BEFORE = 3
"""A cursor has at least this many lines above it, its own included: some context to go on."""

_DRAW = 3
"""Keeps these draws apart from others of the same seed."""

# What a line starts with that is a comment or a docstring, in the languages that the corpus knows.
# It only decides which lines are drawn: a preprocessor's line (#include) or an attribute (#[test])
# may be, a line that merely looks like a comment is passed over.
_COMMENT = re.compile(
    r"//|/\*|\*(?:\s|/|$)|<!--|--(?:\s|$)|;+(?:\s|$)|%+(?:\s|$)|\"\"\"|'''"
    r"|#(?!\[|\s*(?:define|elif|else|endif|error|if|ifdef|ifndef|import|include|pragma|undef)\b)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The beginning of a line that is to be written."""

    path: str
    line: int
    """1-based: the line that the cursor stands at the end of."""
    prefix: str
    """The file up to and including that line's end."""
    truth: str
    """The next line, without white space at its end."""


def draw_cursors(documents: Sequence[Document], *, max_cursors: int, seed: int) -> list[Cursor]:
    """At most ``max_cursors`` places, as evenly over the files as they allow, drawn by ``seed``.

    A place is the end of a line with something on it, followed by a line of code: not blank, not
    only brackets, not a comment.
    """
    by_path = sorted(documents, key=lambda document: document.path)
    generator = np.random.default_rng((seed, _DRAW))
    files: deque[Iterator[Cursor]] = deque(
        _in_random_order(by_path[index], seed=int(generator.integers(2**62)))
        for index in generator.permutation(len(by_path))
    )
    found: list[Cursor] = []
    while files and len(found) < max_cursors:
        file = files.popleft()
        cursor = next(file, None)
        if cursor is not None:
            found.append(cursor)
            files.append(file)
    return found


def _in_random_order(document: Document, *, seed: int) -> Iterator[Cursor]:
    """All places of a file; nothing is computed before the first one is asked for."""
    lines = document.text.split("\n")
    places = [
        index
        for index in range(LINES_BEFORE - 1, len(lines) - 1)
        if lines[index].strip() and is_code(lines[index + 1])
    ]
    for index in np.random.default_rng(seed).permutation(places):
        yield Cursor(
            path=document.path,
            line=int(index) + 1,
            prefix="\n".join([*lines[: index + 1], ""]),
            truth=lines[index + 1].rstrip(),
        )


def is_code(line: str) -> bool:
    """Whether there is more on ``line`` than brackets or a comment."""
    return any(map(str.isalnum, line)) and _COMMENT.match(line.lstrip()) is None
