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
    r"(?:def|class|fn|func(?:[ \t]*\([^)\n]*\))?|function|fun|sub|struct|enum|union"
    r"|interface|trait|type|module|namespace|#[ \t]*define|let(?:[ \t]+mut)?|var|val"
    r"|const(?=[ \t]+\w+[ \t]*[:=]))[ \t]+([^\W\d]\w*)"
)
# With a space before the sign: without, it is mostly an argument that a call names.
_ASSIGNED = (
    r"^[ \t]*(?:[\w<>:\[\],.?*&]+[ \t]+)*?(?:\w+(?:\.|->))*([^\W\d]\w*)"
    r"(?:[ \t]*:(?!:)[^=\n]{1,60})?[ \t]+(?:[-+*/|&^%]|<<|>>|:)?=(?![=>])"
)
_C_FUNCTION = r"^[^\W\d][\w \t*&:<>]*?[ \t*&]([^\W\d]\w*)[ \t]*\("
_METHOD = (
    r"^[ \t]+(?:[\w<>:\[\],.?]+[ \t*&]+)*?([^\W\d]\w*)[ \t]*"
    r"\([^;{}\n]*\)[^;=(){}\n]*\{[ \t]*$"
)
_DEFINITIONS = tuple(
    re.compile(pattern, re.MULTILINE) for pattern in (_DECLARED, _ASSIGNED, _C_FUNCTION, _METHOD)
)
_KEYWORDS = frozenset((
    "False", "None", "True", "and", "assert", "await", "bool", "break", "case", "catch", "char",
    "class", "const", "continue", "default", "delete", "elif", "else", "enum", "except", "export",
    "false", "finally", "float", "for", "foreach", "from", "function", "goto", "import", "int",
    "lambda", "let", "long", "match", "new", "nil", "not", "null", "package", "private", "public",
    "raise", "return", "self", "short", "sizeof", "static", "struct", "super", "switch", "this",
    "throw", "true", "try", "typeof", "until", "use", "using", "var", "void", "while", "with",
    "yield",
))  # fmt: skip
"""Of any language: the patterns take some of them for names."""


def defined_names(documents: Iterable[Document]) -> frozenset[str]:
    """The names of at least three characters that ``documents`` define."""
    found: set[str] = set()
    for document in documents:
        for pattern in _DEFINITIONS:
            found.update(pattern.findall(document.text))
    return frozenset(name for name in found - _KEYWORDS if len(name) >= MIN_LENGTH)


def names_of(text: str) -> frozenset[str]:
    """All names in ``text``."""
    return frozenset(_NAME.findall(text))


def asked_names(truth: str, prefix: str, defined: frozenset[str]) -> tuple[str, ...]:
    """The names of ``truth``, ascending, that ``defined`` has and ``prefix`` does not."""
    return tuple(sorted((names_of(truth) & defined) - names_of(prefix)))
