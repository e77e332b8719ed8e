"""Pieces of HTML; what comes from outside is escaped here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal, TypeAlias

_CODE: Final = re.compile(r"`([^`]+)`")
_UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, those that turn the direction of text, and halves of surrogate pairs."""

Align: TypeAlias = Literal["", "number"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of 1 as a cell of a table."""

    share: float


Cell: TypeAlias = str | Bar


def text(value: object) -> str:
    """Escaped; a character that cannot be shown, or that hides others, becomes U+FFFD."""
    return escape(_UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(value)))


def prose(value: str) -> str:
    """A sentence of ours, whose backticks mark code."""
    return _CODE.sub(r"<code>\1</code>", text(value))


def paragraph(value: str, kind: str = "") -> str:
    """``prose`` as a paragraph."""
    return f"<p{_class(kind)}>{prose(value)}</p>"


def code_block(value: str) -> str:
    """Code, or a file, as it is; focusable, so that it can be scrolled by keyboard."""
    return f'<pre tabindex="0"><code>{text(value)}</code></pre>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: frozenset[int] = frozenset()
) -> str:
    """A table whose columns ``numbers`` stand to the right; the first column names the row."""
    cells = "".join(
        f'<th scope="col"{_class("number" if at in numbers else "")}>{text(one)}</th>'
        for at, one in enumerate(head)
    )
    body = "".join(f"<tr>{_row(row, numbers)}</tr>" for row in rows)
    return (
        f'<div class="table" tabindex="0"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def section(name: str, title: str, parts: Iterable[str]) -> str:
    """A part of the page with its anchor."""
    return f'<section id="{name}"><h2>{text(title)}</h2>{"".join(parts)}</section>'


def _row(row: Sequence[Cell], numbers: frozenset[int]) -> str:
    found = []
    for at, cell in enumerate(row):
        kind = _class("number" if at in numbers else "")
        if isinstance(cell, Bar):
            found.append(f'<td class="bar"><span style="width:{cell.share:.1%}"></span></td>')
        elif at == 0:
            found.append(f'<th scope="row">{text(cell)}</th>')
        else:
            found.append(f"<td{kind}>{text(cell)}</td>")
    return "".join(found)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
