"""Tables that GitHub draws as tables."""

import re

import pytest

from repotune.requirements import document, to_markdown
from repotune.requirements.blocks import Bullets, Cell, Code, Document, Heading, Paragraph, Table

from .pages import figures


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_every_row_has_as_many_fields_as_its_head(lang):
    text = to_markdown(document(figures(), lang))
    count = 0
    for part in text.split("\n\n"):
        if part.startswith("|"):
            head, rule, *rows = part.splitlines()
            width = len(re.findall(r"(?<!\\)\|", head))
            assert rule == "|---" * (width - 1) + "|"
            assert rows
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {width}
            count += 1
    assert count == 18
    # GitHub strikes out what stands between two of them.
    assert "~" not in text


def test_each_kind_of_block():
    table = Table(("a", "b"), ((Cell("x|y"), Cell("<z>")),))
    blocks = (Paragraph("p"), Heading("h"), Bullets(("i", "j")), Code("c"), table)
    text = to_markdown(Document("en", "T", "other", "Contents", blocks, ()))
    assert text == (
        "# T\n\nother\n\np\n\n### h\n\n- i\n- j\n\n```\nc\n```\n\n"
        "| a | b |\n|---|---|\n| x\\|y | &lt;z> |\n"
    )
