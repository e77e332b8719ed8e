"""The document as one HTML file: styles inside, no script, nothing from the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Final

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
LINK: Final = re.compile(r"https://[^\s;,<]+")


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
    # Focusable, so that a wide table can be scrolled by keyboard.
    yield '<div class="table" tabindex="0"><table>'
    yield "<thead><tr>"
    yield from (f'<th scope="col">{_inline(text)}</th>' for text in table.head)
    yield "</tr></thead>"
    yield "<tbody>"
    for row in table.rows:
        yield "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def _cell(cell: Cell) -> str:
    kind = "" if cell.tone == "plain" else f' class="{cell.tone}"'
    bar = ""
    if cell.share is not None:
        bar = f'<span class="bar"><span style="width:{cell.share:.0%}"></span></span>'
    return f"<td{kind}>{_inline(cell.text)}{bar}</td>"


def _inline(text: str) -> str:
    """Escaped first, so that only our own signs become tags."""
    text = CODE.sub(r"<code>\1</code>", escape(text, quote=False))
    text = STRONG.sub(r"<strong>\1</strong>", text)
    return LINK.sub(r'<a href="\g<0>">\g<0></a>', text)
