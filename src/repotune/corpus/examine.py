"""One file of the tree: read, decoded, judged; what it is or why it is left out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field, replace

from repotune.corpus.decode import decode, is_binary
from repotune.corpus.filters import judge
from repotune.corpus.language import is_binary_name, language_of
from repotune.corpus.manifest import FileLine, Reason
from repotune.corpus.secrets import Redacted, find_secrets, redact, replace_values
from repotune.corpus.walk import Candidate, read_bytes

_LICENCE_HEAD = 4096
"""Characters. A licence's identifier stands in the comment at the top of a file."""
_LICENCE = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+:()-]+(?:[ \t]+[\w.+:()-]+)*)")
_LICENCE_JOINS = frozenset({"AND", "OR", "WITH", "and", "or", "with"})


@dataclass(slots=True)
class Examined:
    """A file's line of the manifest and, if it is worth learning from, its text."""

    line: FileLine
    text: str | None = None
    """None if the file is left out."""
    words_are_names: bool = False
    is_code: bool = False
    """Whether it is in a language of code, kept or not."""
    counts: Counter[str] = field(default_factory=Counter)
    """Kind of secret -> places where its placeholder stands."""
    values: dict[str, str] = field(default_factory=dict, repr=False)
    """Secret -> its kind, also of a file that is left out. Never written anywhere."""

    def leave_out(self, reason: Reason, detail: str = "") -> None:
        """Keep the file's line, with the reason, and nothing of its text."""
        self.line = replace(self.line, reason=reason, detail=detail, secrets=0)
        self.text = None
        self.counts = Counter()

    def replace_secrets(self, values: dict[str, str]) -> None:
        """Replace ``values``, found in other files, in this one; ``self.values`` may grow by it."""
        if self.text is None or not any(value in self.text for value in values):
            return
        text, counts = replace_values(
            self.text, {value: kind for value, kind in values.items() if value in self.text}
        )
        if counts:
            self.counts += counts
            self._take(redact(text, words_are_names=self.words_are_names))

    def _take(self, redacted: Redacted) -> None:
        self.values |= redacted.values
        if redacted.text is None:
            self.leave_out("secrets not removable")
        else:
            self.text = redacted.text
            self.counts += redacted.counts
            self.line = replace(self.line, secrets=self.counts.total())


def passed_over(line: FileLine) -> Examined:
    """What the walk has left out already; the name alone says whether it was code."""
    language = None if line.path.endswith("/") else language_of(line.path.rpartition("/")[2], b"")
    return Examined(line, is_code=language is not None and language.is_code)


def examine(candidate: Candidate) -> Examined:
    """Read the file and decide; no file's content makes this raise."""
    name = candidate.path.rpartition("/")[2]
    line = FileLine(
        path=candidate.path,
        reason=None,
        size_bytes=candidate.size_bytes,
        vendored=candidate.vendored,
    )
    if is_binary_name(name):
        return Examined(replace(line, reason="binary"))
    content = read_bytes(candidate)
    if isinstance(content, FileLine):
        return Examined(content)
    line = replace(line, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    language = language_of(name, content)
    if language is not None:
        line = replace(line, language=language.name)
    examined = Examined(line, is_code=language is not None and language.is_code)
    if is_binary(content):
        examined.leave_out("binary")
        return examined
    if language is None:
        examined.leave_out("unknown language")
        # A file of settings that is left out may hold the value that another one spells out.
        text = content.decode("utf-8", "replace").replace("\r\n", "\n")
        examined.values = find_secrets(text, words_are_names=False) or {}
        return examined
    decoded = decode(content)
    if decoded is None:
        examined.leave_out("undecodable")
        return examined
    examined.line = replace(line, encoding=decoded.encoding)
    examined.words_are_names = language.words_are_names
    if not decoded.text.strip():
        examined.leave_out("empty")
    elif (verdict := judge(name, decoded.text, language)) is not None:
        examined.leave_out(*verdict)
        examined.values = find_secrets(decoded.text, words_are_names=examined.words_are_names) or {}
    else:
        examined._take(redact(decoded.text, words_are_names=examined.words_are_names))
        if examined.text is not None:
            examined.line = replace(examined.line, licence=licence_of(examined.text))
    return examined


def licence_of(text: str) -> str | None:
    """The SPDX expression that the file itself names at its top, or None."""
    match = _LICENCE.search(text[:_LICENCE_HEAD])
    if match is None:
        return None
    words = match[1].split()
    # What follows the expression on its line is no part of it: "MIT see LICENSE".
    end = 1
    while end + 1 < len(words) and words[end] in _LICENCE_JOINS:
        end += 2
    return " ".join(words[:end])
