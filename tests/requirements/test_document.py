"""The words: every figure of the old page beside ours, and the same figures in both languages."""

import re

import pytest

from repotune.requirements import document
from repotune.requirements.blocks import Bullets, Code, Heading, Paragraph, Table
from repotune.requirements.sentences import KOREAN
from repotune.tables import clouds, gpus, models, page_claims

from .pages import figures

PAGE = figures()
ENGLISH, KOREAN_PAGE = document(PAGE, "en"), document(PAGE, "ko")

OLD = {
    "tiers": [
        ("minimum: GPU memory", "12 GB"), ("minimum: RAM", "16–32 GB"),
        ("minimum: CPU", "8 cores"), ("minimum: CPU", "Intel i5, AMD Ryzen 5"),
        ("recommended: GPU memory", "16 GB"), ("recommended: RAM", "32 GB"),
        ("recommended: CPU", "12 cores"), ("recommended: CPU", "Intel i7, AMD Ryzen 7"),
        ("best: GPU memory", "24 GB"), ("best: RAM", "64 GB"), ("best: CPU", "16 cores"),
        ("best: CPU", "Intel i9, AMD Ryzen 9"),
        ("recommended: GPU memory (its summary)", "24 GB or more (RTX 4090, RTX 3090)"),
        ("minimum: RAM (its summary)", "16 GB or more (less is impossible)"),
    ],
    "disk": [
        ("minimum: disk", "50 GB"), ("recommended: disk", "100 GB"), ("best: disk", "200 GB"),
        ("recommended: disk", "SSD"), ("best: disk", "SSD, NVMe recommended"),
        ("download", "13 GB"), ("quantised weights", "4 GB"), ("checkpoints", "10–20 GB"),
    ],
    "gpus": [
        ("RTX 3060", "fits"), ("RTX 3060 Ti", "does not fit"), ("RTX 4060", "does not fit"),
        ("RTX 4060 Ti 16GB", "fits"), ("RTX 4070", "tight"), ("RTX A4000", "fits"),
        ("RTX 3080 10GB, RTX 3080 12GB", "tight"), ("RTX 3090", "fits"), ("RTX 4090", "fits"),
        ("RTX A5000", "fits"), ("A100 PCIe 40GB", "fits"),
        ("RTX 3060: 1 / 16 / 1024 / 4-bit", "8–12 hours"),
        ("RTX 4060 Ti 16GB: 2 / 8 / 1536 / 4-bit", "6–8 hours"),
        ("RTX 3090, RTX 4090: 4 / 4 / 2048 / 4-bit", "3–5 hours"),
        ("A100 SXM4 80GB: 8 / 2 / 2048 / 16-bit", "2–3 hours"),
    ],
    "settings": [
        ("1 × 1024", "6–8 GB"), ("2 × 1024", "8–10 GB"), ("4 × 2048", "10–12 GB"),
        ("8 × 2048", "18–20 GB"),
    ],
    "times": [
        ("RTX 3060, 1,000 files", "1–2 hours"), ("RTX 3060, 10,000 files", "8–12 hours"),
        ("RTX 3060, 50,000 files", "2–3 days"), ("RTX 3060, 100,000 files", "4–6 days"),
        ("RTX 4090, 1,000 files", "20–30 minutes"), ("RTX 4090, 10,000 files", "3–5 hours"),
        ("RTX 4090, 50,000 files", "12–20 hours"), ("RTX 4090, 100,000 files", "1–2 days"),
        ("CPU, 10,000 files", "weeks to months"),
        ("CPU against RTX 4090", "hundreds of times slower"),
    ],
    "clouds": [
        ("Google Colab, T4", "free"), ("Google Colab, A100", "9.99 USD a month"),
        ("Kaggle, P100 PCIe, T4", "free"), ("Kaggle, P100 PCIe, T4", "30 hours a week"),
        ("AWS, T4", "0.5 USD an hour"), ("AWS, V100", "3 USD an hour"),
        ("Paperspace Gradient", "free"),
    ],
    "software": [
        ("Python", "3.10 or newer, 3.11 recommended"), ("CUDA", "11.8 or newer, 12.1 recommended"),
        ("PyTorch", "2.0 or newer"),
    ],
}  # fmt: skip
"""Section -> (what, the old page's figure), read off the page by eye."""


def section(page, name):
    return next(one for one in page.sections if one.id == name)


def tables(one):
    return [block for block in one.blocks if isinstance(block, Table)]


def compared(page):
    """Section -> the rows of its comparison with the old page."""
    found = {}
    for one in page.sections:
        for table in tables(one):
            if table.head[1] in ("old page", "기존 안내"):
                found[one.id] = [[cell.text for cell in row] for row in table.rows]
    return found


def texts(blocks):
    for block in blocks:
        match block:
            case Table(head, rows):
                yield from head
                yield from (cell.text for row in rows for cell in row)
            case Bullets(items):
                yield from items
            case Paragraph(text) | Heading(text) | Code(text):
                yield text


def numbers(blocks):
    return sorted(re.findall(r"\d[\d,.]*\d|\d", " ".join(texts(blocks))))


@pytest.mark.parametrize(
    ("where", "what", "old"), [(where, *pair) for where, pairs in OLD.items() for pair in pairs]
)
def test_each_figure_of_the_old_page_stands_beside_ours(where, what, old):
    rows = [row for row in compared(ENGLISH)[where] if what in row[0] and row[1].startswith(old)]
    rows = rows or [r for r in compared(ENGLISH)[where] if what in r[0] and old in r[1]]
    assert rows
    for _, _, ours, why in rows:
        assert ours
        assert why.endswith(".")


def test_nothing_that_the_old_page_says_is_left_out():
    for page in (ENGLISH, KOREAN_PAGE):
        assert sum(len(rows) for rows in compared(page).values()) == len(page_claims())


def test_what_differs_says_why_and_what_does_not_says_so():
    rows = [row for rows in compared(ENGLISH).values() for row in rows]
    reasons = {claim.why for claim in page_claims() if claim.why}
    same = {"Lies in the old page's range.", "The same verdict."}
    assert {row[3] for row in rows} == reasons | same


def test_both_languages_have_the_same_figures():
    assert [one.id for one in ENGLISH.sections] == [one.id for one in KOREAN_PAGE.sections]
    assert numbers(ENGLISH.intro) == numbers(KOREAN_PAGE.intro)
    for one, other in zip(ENGLISH.sections, KOREAN_PAGE.sections, strict=True):
        assert numbers(one.blocks) == numbers(other.blocks), one.id
        for table, its_twin in zip(tables(one), tables(other), strict=True):
            assert len(table.rows) == len(its_twin.rows)


def test_every_sentence_of_the_tables_is_translated():
    said = {claim.why for claim in page_claims()} | {offer.note for offer in clouds()}
    said |= {claim.says for claim in page_claims() if claim.topic != "gpu"} | {PAGE.measured}
    assert said - {None} == set(KOREAN)


def test_the_korean_page_is_korean():
    prose = [
        text
        for block in (*KOREAN_PAGE.intro, *(b for one in KOREAN_PAGE.sections for b in one.blocks))
        if isinstance(block, Paragraph | Heading)
        for text in texts([block])
    ]
    assert all(re.search("[가-힣]", text) for text in prose)


def test_all_dates_are_those_of_the_tables():
    known = {one.date for table in (gpus(), clouds(), models()) for one in table}
    known |= set(re.findall(r"\d{4}-\d\d-\d\d", PAGE.measured))
    for page in (ENGLISH, KOREAN_PAGE):
        blocks = [*page.intro, *(block for one in page.sections for block in one.blocks)]
        found = set(re.findall(r"\b\d{4}-\d\d-\d\d\b", " ".join(texts(blocks))))
        assert max(offer.date for offer in clouds()) in found
        assert found <= known


def test_every_offer_has_price_limits_and_date():
    (table, *_) = tables(section(ENGLISH, "clouds"))
    assert len(table.rows) == len(clouds())
    for row, offer in zip(table.rows, clouds(), strict=True):
        cells = [cell.text for cell in row]
        assert cells[2].startswith("free" if offer.free else f"{offer.price:g}")
        assert offer.date in cells[-1]
    assert "Prices and limits change" in " ".join(texts(section(ENGLISH, "clouds").blocks))


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize(
    "name", ["starter", "Qwen/Qwen2.5-Coder-32B", "codellama/CodeLlama-34b-hf"]
)
def test_other_models_have_a_page_too(name, lang):
    page = document(figures(name), lang)
    assert set(compared(page)) == {"clouds", "software"}
    assert not [text for text in texts(page.intro) if "{" in text]
