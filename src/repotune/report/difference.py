"""What was written against what stood there, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Final, Literal, TypeAlias

Part: TypeAlias = tuple[Literal["same", "written", "missing"], str]

MAX_WORDS: Final = 400
"""Of one text; ``difflib`` is quadratic, and nobody reads on."""
ALIKE: Final = 0.4
"""Texts that share less are not compared: the difference would be harder to read than both."""
_WORD = re.compile(r"\w+|\s+|.", re.DOTALL)


def difference(truth: str, written: str) -> tuple[Part, ...]:
    """The parts of ``written`` in order, and between them what is missing from ``truth``.

    Where the two have little in common, all of ``written`` is one part, but for first lines that
    are the truth.
    """
    if truth and written.startswith(f"{truth}\n"):  # it only did not stop
        return ("same", truth), ("written", written[len(truth) :])
    theirs, ours = (_WORD.findall(text)[:MAX_WORDS] for text in (truth, written))
    matcher = SequenceMatcher(None, theirs, ours, autojunk=False)
    if matcher.ratio() < ALIKE:
        return (("written", "".join(ours)),)
    parts: list[Part] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            parts.append(("same", "".join(ours[c:d])))
            continue
        if b > a:
            parts.append(("missing", "".join(theirs[a:b])))
        if d > c:
            parts.append(("written", "".join(ours[c:d])))
    return tuple(parts)
