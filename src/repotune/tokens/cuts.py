"""Where a text is cut for fill in the middle."""

from __future__ import annotations

from random import Random
from typing import Final

SPAN_SHARE: Final = 0.4
CURSOR_SHARE: Final = 0.4
"""The rest is cut at random characters. Spans that follow the code teach more than random ones
(arXiv 2506.00204), a cursor to the end of its line is what an editor asks for most, and random
cuts keep what Bavarian et al. (arXiv 2207.14255) measured: robustness inside a token."""
MORE_LINES: Final = 0.5
"""That a span of lines goes on after each; a block by indentation ends where it ends, or at half of
the text."""


def choose_middle(text: str, random: Random) -> tuple[int, int]:
    """Where the middle begins and ends, in characters; never empty unless the text is."""
    kind = random.random()
    middle = None
    if kind < SPAN_SHARE:
        middle = _lines(text, random) if random.random() < 0.5 else _block(text, random)
    elif kind < SPAN_SHARE + CURSOR_SHARE:
        middle = _cursor_to_line_end(text, random)
    return middle or _characters(text, random)


def _characters(text: str, random: Random) -> tuple[int, int]:
    """From any place on; one character or all that is left, each doubling as likely as the next.

    With both ends uniform a third of the text is the middle, and hardly an end is seen.
    """
    if len(text) < 2:
        return 0, len(text)
    start = random.randrange(len(text))
    return start, start + round((len(text) - start) ** random.random())


def _cursor_to_line_end(text: str, random: Random) -> tuple[int, int] | None:
    """From a place in a line, or where its code begins, to its end."""
    line = _line_with_code(text, random)
    if line is None:
        return None
    start, end = line
    return random.randrange(_code_start(text, start, end), end), end


def _lines(text: str, random: Random) -> tuple[int, int] | None:
    """One line or more, up to the end of the last, from where the first or its code begins.

    The last line's end stays in the suffix, as in an editor, whose cursor stands on a line.
    """
    line = _line_with_code(text, random)
    if line is None:
        return None
    start, end = line
    first = start if random.random() < 0.5 else _code_start(text, start, end)
    while random.random() < MORE_LINES:
        following = text.find("\n", end + 1)
        if following < 0 or following - start > len(text) // 2:
            break
        end = following
    return first, end


def _block(text: str, random: Random) -> tuple[int, int] | None:
    """From where a line's code begins to the end of all that is indented deeper below it."""
    line = _line_with_code(text, random)
    if line is None:
        return None
    start, end = line
    code = _code_start(text, start, end)
    indentation = code - start
    at = end + 1
    while at < len(text) and at - code <= len(text) // 2:
        line_end = _line_end(text, at)
        begins = _code_start(text, at, line_end)
        if begins < line_end:
            if begins - at <= indentation:
                break
            end = line_end
        at = line_end + 1
    return code, end


def _line_with_code(text: str, random: Random) -> tuple[int, int] | None:
    """A line that is not blank, found from a random character on; None if there is no other."""
    at = random.randrange(len(text)) if text else 0
    start = text.rfind("\n", 0, at) + 1
    while start < len(text):
        end = _line_end(text, start)
        if _code_start(text, start, end) < end:
            return start, end
        start = end + 1
    return None


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _code_start(text: str, start: int, end: int) -> int:
    """The first character of the line that is no space; ``end`` if it is blank."""
    return end - len(text[start:end].lstrip())
