"""A document as records, which Markdown and HTML draw in their own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Tone: TypeAlias = Literal["plain", "good", "warn", "bad", "number"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A field of a table; text between backticks is code, as in paragraphs."""

    text: str
    tone: Tone = "plain"
    share: float | None = None
    """Of 1, drawn as a bar where that can be drawn."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a head."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a part of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Commands to paste."""

    text: str


Block: TypeAlias = Table | Paragraph | Heading | Bullets | Code


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; ``id`` is its anchor, the same in every language."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The whole page."""

    lang: str
    title: str
    other: str
    """Where the page in the other language lies."""
    contents: str
    """The word for the list of sections."""
    intro: tuple[Block, ...]
    sections: tuple[Section, ...]
