"""One line of the manifest: what became of a file, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from repotune.records import Split

Reason: TypeAlias = Literal[
    # the walk
    "symlink",
    "ignored by git",
    "excluded",
    "version control",
    "virtual environment",
    "dependencies",
    "cache",
    "run of repotune",
    "vendored",
    "not a regular file",
    "name is not UTF-8",
    "unreadable",
    "vanished",
    "empty",
    "too large",
    # the text
    "binary",
    "undecodable",
    "unknown language",
    "plain text",
    "long data file",
    "too many lines",
    "long lines",
    "minified",
    "generated",
    "encoded data",
    "few letters",
    "little visible text",
    "secrets not removable",
    "duplicate",
]
"""Why a file, or a folder that is not entered, is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLine:
    """A file that was seen, or a folder that was not entered (its path ends in ``/``)."""

    path: str
    """Relative to the root, with forward slashes."""
    reason: Reason | None
    """Why it is left out; None if it is kept."""
    detail: str = ""
    """What the reason refers to: a size, a line length, the file that a duplicate equals."""
    size_bytes: int = 0
    """On disk."""
    language: str | None = None
    encoding: str | None = None
    sha256: str | None = None
    """Of the bytes on disk; None if they were not read."""
    licence: str | None = None
    vendored: bool = False
    secrets: int = 0
    """Places where a placeholder stands instead of a secret."""
    cluster: int | None = None
    split: Split | None = None
