"""The repository's own names, and whether a completion knows them where the prompt does not help.

A name is *defined* in a file if it follows a word that declares (``def``, ``class``, ``struct``,
``const``, …), is assigned to, or heads a function in the way of C or a method in braces. That is
read by patterns, alike for all languages and without a parser: a few definitions are missed, and a
call at the beginning of a line is taken for one, for both models alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from repotune.records import Document

MIN_LENGTH = 3
"""Shorter names (i, x, fd) are guessed by any model."""

_NAME = re.compile(r"[^\W\d]\w*")
_DECLARED = (
    r"^[ \t]*(?:(?:pub|export|default|public|private|protected|internal|static|abstract|final|async"
    r"|inline|open|override|sealed|data|unsafe)(?:\([^)\n]*\))?[ \t]+)*"
    r"(?:def|class|fn|func(?:[ \t]*\([^)\n]*\))?|function|fun|sub|struct|enum|union|interface|trait|type|module|namespace"
    r"|#[ \t]*define|let(?:[ \t]+mut)?|var|val|const(?=[ \t]+\w+[ \t]*[:=]))[ \t]+([^\W\d]\w*)"
)
_ASSIGNED = r"(?:^|[\s.(,])([^\W\d]\w*)[ \t]*(?::[^=\n]{1,60})?(?:[-+*/|&^%]|<<|>>|:)?=(?![=>])"
_C_FUNCTION = r"^[^\W\d][\w \t*&:<>]*?[ \t*&]([^\W\d]\w*)[ \t]*\("
_METHOD = (
    r"^[ \t]+(?:[\w<>:\[\],.?]+[ \t*&]+)*?([^\W\d]\w*)[ \t]*"
    r"\([^;{}\n]*\)[^;=(){}\n]*\{[ \t]*$"
)
_DEFINITIONS = tuple(
    re.compile(pattern, re.MULTILINE) for pattern in (_DECLARED, _ASSIGNED, _C_FUNCTION, _METHOD)
)
_CONTROL = frozenset(("for", "while", "switch", "catch", "foreach", "match", "function", "return"))
"""What else stands before brackets and a brace."""


def defined_names(documents: Iterable[Document]) -> frozenset[str]:
    """The names of at least three characters that ``documents`` define."""
    found: set[str] = set()
    for document in documents:
        for pattern in _DEFINITIONS:
            found.update(pattern.findall(document.text))
    return frozenset(name for name in found - _CONTROL if len(name) >= MIN_LENGTH)


def names_of(text: str) -> frozenset[str]:
    """All names in ``text``."""
    return frozenset(_NAME.findall(text))


def asked_names(truth: str, prefix: str, defined: frozenset[str]) -> tuple[str, ...]:
    """The names of ``truth``, ascending, that ``defined`` has and ``prefix`` does not."""
    return tuple(sorted((names_of(truth) & defined) - names_of(prefix)))
