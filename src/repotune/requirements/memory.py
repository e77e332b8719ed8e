"""Sections on GPU memory: by settings, and when it is not enough."""

from __future__ import annotations

from typing import Final

from repotune.requirements.blocks import Block, Bullets, Cell, Heading, Paragraph, Table
from repotune.requirements.figures import Remedy, Requirements
from repotune.requirements.phrases import amount, number, settings_text
from repotune.requirements.remedies import LEVEL_POLICY, START
from repotune.requirements.texts import Lang, say

REMEDY_HEAD: Final = ("col_order", "col_vram", "col_saves", "col_host", "col_cost")


def settings(page: Requirements, lang: Lang) -> list[Block]:
    """Each setting by what layers save, then beside what people run today."""
    levels = tuple(LEVEL_POLICY)
    head = (say(lang, "col_batch"), *(say(lang, f"level_{level}") for level in levels))
    rows = tuple(
        (
            Cell(f"{row.batch_size} × {row.max_seq_length}"),
            *(Cell(amount(row.by_level[level])) for level in levels),
        )
        for row in page.settings
    )
    context = page.context_gib
    lead = say(
        lang, "settings_lead", rank=START.lora_r, reference=page.reference,
        context=number(context.expected, 2), low=number(context.low, 2),
        high=number(context.high, 2),
    )  # fmt: skip
    beside = tuple(
        (
            Cell(f"{row.batch_size} × {row.max_seq_length}"),
            Cell(number(row.plain_stack_gib)),
            Cell(f"{row.smallest_gb} GB" if row.smallest_gb else say(lang, "no_card")),
        )
        for row in page.settings
    )
    keys = ("col_batch", "col_plain", "col_smallest")
    return [
        Paragraph(lead),
        Table(head, rows),
        Paragraph(say(lang, "settings_plain")),
        Table(tuple(say(lang, key) for key in keys), beside),
    ]


def out_of_memory(page: Requirements, lang: Lang) -> list[Block]:
    """Remedies in the order in which the program takes them."""
    start = settings_text(page.automatic[0].settings, lang)
    head = tuple(say(lang, key) for key in REMEDY_HEAD)
    itself = tuple(
        _remedy(one, say(lang, f"level_{one.key}"), first=one is page.automatic[0])
        for one in page.automatic
    )
    proposed = tuple(
        _remedy(one, _step(one, lang), first=one is page.proposed[0]) for one in page.proposed
    )
    blocks: list[Block] = [
        Paragraph(say(lang, "memory_lead", reference=page.reference)),
        Heading(say(lang, "by_itself")),
        Paragraph(say(lang, "by_itself_lead", settings=start)),
        Table(head, itself),
        Heading(say(lang, "proposed")),
        Paragraph(say(lang, "proposed_lead")),
        Table(head, proposed),
    ]
    if page.smaller:
        smaller = page.smaller
        text = say(lang, "last_resort", gpu=smaller.gpu, gb=smaller.memory_gb, model=smaller.model)
        blocks.append(Paragraph(text))
    return [*blocks, Heading(say(lang, "old_remedies")), _old_four(page, lang)]


def _step(one: Remedy, lang: Lang) -> str:
    return say(
        lang, f"step_{one.key}", settings=settings_text(one.settings, lang),
        batch=one.settings.batch_size, accumulation=one.settings.gradient_accumulation_steps,
        length=one.settings.max_seq_length,
    )  # fmt: skip


def _remedy(one: Remedy, name: str, *, first: bool) -> tuple[Cell, ...]:
    return (
        Cell(name),
        Cell(amount(one.vram_gib)),
        Cell("–" if first else number(one.saved_gib, 2), "number"),
        Cell(number(one.host_gib, 2), "number"),
        Cell(f"× {one.time:.2f}", "number"),
    )


def _old_four(page: Requirements, lang: Lang) -> Bullets:
    """What the old page's remedies save, by our figures."""
    start = page.automatic[0]
    return Bullets(
        (
            say(lang, "old_batch", saved=number(page.batch.saved_gib, 2),
                time=f"{page.batch.time:.2f}"),
            say(lang, "old_length", saved=number(page.length.saved_gib, 2)),
            say(lang, "old_rank", rank=page.rank.lora_r, saved=number(page.rank.saved_gib, 2)),
            say(lang, "old_checkpointing", whole=amount(start.vram_gib),
                settings=settings_text(start.settings, lang)),
        )
    )  # fmt: skip
