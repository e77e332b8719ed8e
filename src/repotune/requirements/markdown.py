"""The document as Markdown with GitHub's tables."""

from __future__ import annotations

from collections.abc import Iterator

from repotune.requirements.blocks import (
    Block,
    Bullets,
    Code,
    Document,
    Heading,
    Paragraph,
    Table,
)


def to_markdown(document: Document) -> str:
    """The whole page, with a newline at its end."""
    parts = [f"# {document.title}", document.other]
    parts += [_block(block) for block in document.intro]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Table():
            return "\n".join(_table(block))
        case Paragraph(text):
            return _escaped(text)
        case Heading(text):
            return f"### {_escaped(text)}"
        case Bullets(items):
            return "\n".join(f"- {_escaped(item)}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"


def _table(table: Table) -> Iterator[str]:
    yield _line(table.head)
    yield "|---" * len(table.head) + "|"
    for row in table.rows:
        yield _line([cell.text for cell in row])


def _line(texts: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(_escaped(text).replace("|", "\\|") for text in texts) + " |"


def _escaped(text: str) -> str:
    """``<`` begins no tag; the texts have no other sign that Markdown would take for its own."""
    return text.replace("<", "&lt;")
