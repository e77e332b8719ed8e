"""The document as one HTML file: styles inside, no script, nothing from the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Final
from unicodedata import east_asian_width

from repotune.requirements.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Heading,
    Paragraph,
    Table,
)

CODE: Final = re.compile(r"`([^`]+)`")
STRONG: Final = re.compile(r"\*\*([^*]+)\*\*")
RANGE: Final = re.compile(r"\([\d.,]+–[\d.,]+\)")
SHORT: Final = 24
"""A cell of so few columns of a terminal, such as settings, is not broken."""
LONG: Final = 44
"""One of so many is prose, and needs a column that can be read on a telephone."""
CARD_COLUMNS: Final = 4
CARD_ROWS: Final = 12
LINK: Final = re.compile(r"https://([^\s/;,<]+)[^\s;,<]*")


def to_html(document: Document) -> str:
    """The whole page."""
    style = files("repotune.requirements").joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="{document.lang}">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(document.title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{escape(document.title)}</h1>",
            *_body(document),
            "</main>",
            "</body>",
            "</html>",
            "",
        )
    )


def _body(document: Document) -> Iterator[str]:
    for block in document.intro:
        yield from _block(block)
    yield f'<nav aria-label="{escape(document.contents)}"><ul>'
    for section in document.sections:
        yield f'<li><a href="#{section.id}">{escape(section.title)}</a></li>'
    yield "</ul></nav>"
    for section in document.sections:
        yield f'<section id="{section.id}">'
        yield f"<h2>{escape(section.title)}</h2>"
        for block in section.blocks:
            yield from _block(block)
        yield "</section>"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table():
            yield from _table(block)
        case Paragraph(text):
            yield f"<p>{_inline(text)}</p>"
        case Heading(text):
            yield f"<h3>{_inline(text)}</h3>"
        case Bullets(items):
            yield "<ul>"
            yield from (f"<li>{_inline(item)}</li>" for item in items)
            yield "</ul>"
        case Code(text):
            yield f"<pre><code>{escape(text)}</code></pre>"


def _table(table: Table) -> Iterator[str]:
    # Focusable, so that a wide table can be scrolled by keyboard. Where the screen is narrow, a row
    # becomes a card whose cells say what they are, unless there are too many to scroll past.
    columns = len(table.head)
    cards = columns > 2 and (columns <= CARD_COLUMNS or len(table.rows) <= CARD_ROWS)
    kind = "table cards" if cards else "table"
    yield f'<div class="{kind}" tabindex="0"><table>'
    yield "<thead><tr>"
    yield from (f'<th scope="col">{_inline(text)}</th>' for text in table.head)
    yield "</tr></thead>"
    yield "<tbody>"
    for row in table.rows:
        labels = table.head if cards else ("",) * len(row)
        cells = (_cell(cell, label) for cell, label in zip(row, labels, strict=True))
        yield "<tr>" + "".join(cells) + "</tr>"
    yield "</tbody></table></div>"


def _cell(cell: Cell, label: str) -> str:
    names: list[str] = [] if cell.tone == "plain" else [cell.tone]
    shown = LINK.sub(r"\1", cell.text)
    length = len(shown) + sum(east_asian_width(one) in "WF" for one in shown)
    if length <= SHORT and not RANGE.search(cell.text):
        names.append("short")
    elif length >= LONG:
        names.append("long")
    kind = f' class="{" ".join(names)}"' if names else ""
    kind += f' data-label="{escape(label)}"' if label else ""
    bar = ""
    if cell.share is not None:
        bar = f'<span class="bar"><span style="width:{cell.share:.0%}"></span></span>'
    value = f"{_inline(cell.text)}{bar}"
    if label:  # one box beside the label
        value = f"<span>{value}</span>"
    return f"<td{kind}>{value}</td>"


def _inline(text: str) -> str:
    """Escaped first, so that only our own signs become tags."""
    text = CODE.sub(r"<code>\1</code>", escape(text, quote=False))
    text = RANGE.sub(r'<span class="range">\g<0></span>', text)
    text = STRONG.sub(r"<strong>\1</strong>", text)
    # The address is behind the name of its host, which is all that there is room for in a table.
    return LINK.sub(r'<a href="\g<0>">\1</a>', text)
