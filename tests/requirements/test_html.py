"""One file that a browser can show without a network, and nothing in it that is not ours."""

from html.parser import HTMLParser

import pytest

from repotune.requirements import document, to_html
from repotune.requirements.blocks import Cell, Document, Paragraph, Section, Table

from .pages import figures

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Fails at the first tag that is not closed where it was opened."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.tags, self.text = [], [], [], set(), ""
        self.rows = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        assert len(values) == len(attrs)
        if "id" in values:
            self.ids.append(values["id"])
        if "href" in values:
            self.links.append(values["href"])
        assert not {"src", "srcset", "onclick", "onload"} & set(values)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module", params=["en", "ko"])
def page(request):
    return to_html(document(figures(), request.param)), request.param


def test_it_is_well_formed_and_whole(page):
    text, lang = page
    reader = read(text)
    assert text.startswith(f'<!doctype html>\n<html lang="{lang}">')
    assert len(reader.ids) == len(set(reader.ids)) == 11
    anchors = {link[1:] for link in reader.links if link.startswith("#")}
    assert anchors == set(reader.ids)


def test_nothing_is_fetched_or_run(page):
    text, _ = page
    reader = read(text)
    assert not {"script", "link", "img", "iframe", "form"} & reader.tags
    assert all(link.startswith(("#", "https://")) for link in reader.links)
    for word in ("url(", "@import", "http://"):
        assert word not in text


def test_it_suits_dark_screens_and_paper(page):
    text, _ = page
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "color-scheme: light dark" in text


def test_what_is_no_tag_of_ours_is_text():
    evil = '<script>alert("1")</script> & `a < b`'
    table = Table(("<th>", "b"), ((Cell(evil), Cell("x", "good", share=0.5)),))
    blocks = (Paragraph(evil), table)
    text = to_html(Document("en", evil, "", "Contents", blocks, (Section("s", evil, blocks),)))
    reader = read(text)
    assert "script" not in reader.tags
    assert reader.text.count('<script>alert("1")</script> &') == 8
    assert "<code>a &lt; b</code>" in text
    assert reader.rows == [2, 2, 2, 2]


def test_links_end_where_the_address_ends():
    source = "https://example.org/a#b; as shown, 2025-01-01"
    text = to_html(Document("en", "t", "", "c", (Paragraph(source),), ()))
    assert read(text).links == ["https://example.org/a#b"]


def table_of(*columns, rows=1):
    table = Table(columns, tuple(tuple(Cell(f"{c}{r}") for c in columns) for r in range(rows)))
    return to_html(Document("en", "t", "", "c", (table,), ()))


def test_on_a_telephone_a_row_is_a_card_that_names_its_cells():
    text = table_of("what", "old <page>", "why")
    assert 'class="table cards"' in text
    assert 'data-label="old &lt;page&gt;"' in text
    assert read(text).open == []
    # Two columns fit anywhere; a long table of many columns is scrolled sideways instead.
    assert "data-label=" not in table_of("what", "GiB")
    many = [str(number) for number in range(9)]
    assert "data-label=" in table_of(*many, rows=12)
    assert "data-label=" not in table_of(*many, rows=13)


def test_figures_are_not_broken_and_prose_gets_room():
    cells = ("8.1 hours (7.7–8.5)", "1 / 16 / 1024 / 4-bit", "그 값으로 열여덟 시간쯤", "word " * 9)
    table = Table(("a", "b"), tuple((Cell(text), Cell("x")) for text in cells))
    text = to_html(Document("en", "t", "", "c", (table,), ()))
    assert '<td>8.1 hours <span class="range">(7.7–8.5)</span></td>' in text
    assert '<td class="short">1 / 16 / 1024 / 4-bit</td>' in text
    assert '<td class="short">그 값으로 열여덟 시간쯤</td>' in text
    assert '<td class="long">word word' in text


def test_an_address_stands_behind_the_name_of_its_host():
    source = "https://www.example.org/a/long/path, 2025-01-01"
    text = to_html(Document("en", "t", "", "c", (Paragraph(source),), ()))
    assert '<a href="https://www.example.org/a/long/path">www.example.org</a>, 2025-01-01' in text
