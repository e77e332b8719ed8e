"""The page in words: the figures as sections of paragraphs and tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from repotune.planning.rates import UNMEASURED
from repotune.requirements.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Heading,
    Paragraph,
    Section,
    Table,
)
from repotune.requirements.figures import Requirements
from repotune.requirements.machines import (
    clouds,
    cpu_alone,
    cpu_summary,
    every_gpu,
    times,
    usual_row,
)
from repotune.requirements.memory import out_of_memory, settings
from repotune.requirements.phrases import (
    amount,
    comparison_row,
    duration,
    number,
    settings_text,
    some,
)
from repotune.requirements.sentences import translated
from repotune.requirements.texts import Lang, say

DISK_ITEMS: Final = (
    "download", "quantised_weights", "checkpoints", "adapter", "corpus", "total",
)  # fmt: skip
FAST: Final = "RTX 4090"


def document(page: Requirements, lang: Lang) -> Document:
    """The whole page in one language."""
    return Document(
        lang=lang,
        title=say(lang, "title", model=page.model),
        other=say(lang, "other"),
        contents=say(lang, "contents"),
        intro=_intro(page, lang),
        sections=(
            _section("summary", lang, _summary(page, lang)),
            _section("tiers", lang, _tiers(page, lang), *_compared(page, lang, "tier", "ram")),
            _section("disk", lang, _disk(page, lang), *_compared(page, lang, "disk")),
            _section("gpus", lang, every_gpu(page, lang), *_compared(page, lang, "gpu", "preset")),
            _section("settings", lang, settings(page, lang), *_compared(page, lang, "vram")),
            _section("times", lang, times(page, lang), *_compared(page, lang, "time")),
            _section("cpu", lang, cpu_alone(page, lang)),
            _section("memory", lang, out_of_memory(page, lang)),
            _section("clouds", lang, clouds(page, lang), *_compared(page, lang, "cloud")),
            _section("software", lang, _software(page, lang), *_compared(page, lang, "software")),
            _section("sources", lang, _sources(page, lang)),
        ),
    )


def _section(name: str, lang: Lang, blocks: Iterable[Block], *more: Block) -> Section:
    title = {"disk": "disk_title", "cpu": "cpu_title"}.get(name, name)
    return Section(id=name, title=say(lang, title), blocks=(*blocks, *more))


def _compared(page: Requirements, lang: Lang, *topics: str) -> tuple[Block, ...]:
    """Every claim of the old page on these topics beside ours; nothing for another model."""
    rows = [one for one in page.comparisons if one.claim.topic in topics]
    if not rows:
        return ()
    head = tuple(say(lang, key) for key in ("col_what", "old_page", "col_ours", "col_why"))
    table = Table(head, tuple(comparison_row(one, page, lang) for one in rows))
    return Heading(say(lang, "compared")), table


def _intro(page: Requirements, lang: Lang) -> tuple[Block, ...]:
    theirs = any(one.claim.topic == "gpu" for one in page.comparisons)
    return (
        Paragraph(
            say(lang, "intro", model=page.model, parameters=number(page.parameters / 1e9, 2))
        ),
        Paragraph(
            say(
                lang, "read", files=number(page.files), tokens=number(page.tokens_per_file),
                spread=f"{UNMEASURED:.1f}",
            )
        ),
        Paragraph(say(lang, "old" if theirs else "no_old")),
        Paragraph(say(lang, "dates", measured=translated(page.measured, lang), **page.newest)),
    )  # fmt: skip


def _summary(page: Requirements, lang: Lang) -> list[Block]:
    minimum, recommended, best = page.tiers
    items: list[str] = []
    timed = [row.device for row in page.times if row.device in minimum.gpus]
    if minimum.gpu_gb and recommended.gpu_gb and best.gpu_gb:
        items.append(
            say(
                lang, "sum_smallest", gb=minimum.gpu_gb, recommended=recommended.gpu_gb,
                best=best.gpu_gb, names=some(timed or minimum.gpus, 4),
            )
        )  # fmt: skip
    else:
        items.append(say(lang, "sum_nowhere"))
    ruled_out = [
        one.claim.subject["gpus"][0]
        for one in page.comparisons
        if one.claim.says == "does_not_fit" and one.verdict == "fits"
    ]
    if ruled_out:
        items.append(say(lang, "sum_old", names=", ".join(ruled_out)))
    too_small = page.smaller and page.smaller.memory_gb < (minimum.gpu_gb or 0)
    if page.smaller and too_small:
        smaller = page.smaller
        items.append(
            say(
                lang, "sum_smaller", gb=smaller.memory_gb, gpu=smaller.gpu, model=smaller.model,
                hours=duration(smaller.hours, lang),
            )
        )  # fmt: skip
    slow, fast = usual_row(page, page.reference), usual_row(page, FAST)
    if slow.hours and fast.hours:
        items.append(
            say(
                lang, "sum_time", files=number(page.files), gpu=slow.gpu.name, fast=FAST,
                hours=duration(slow.hours, lang), fast_hours=duration(fast.hours, lang),
            )
        )  # fmt: skip
    disk, software = page.disk_gib, page.software
    items += [
        _ram(page, lang),
        say(
            lang, "sum_disk", disk=amount(disk["total"]),
            download=number(disk["download"].expected),
        ),
        say(
            lang, "sum_software", python_low=software.python[0], python_high=software.python[1],
            torch_low=software.pytorch[0], torch_high=software.pytorch[1],
        ),
        cpu_summary(page.cpu, lang),
    ]  # fmt: skip
    free = [one for one in page.offers if one.offer.free and one.verdict != "does_not_fit"]
    for one in sorted(free, key=lambda one: one.hours.expected)[:2]:
        name = f"{one.offer.provider} {one.offer.name} ({one.offer.gpu})"
        key = "sum_free" if one.sessions > 1 else "sum_free_one"
        items.append(say(lang, key, offer=name, files=number(page.files), sessions=one.sessions))
    return [Bullets(tuple(items))]


def _ram(page: Requirements, lang: Lang) -> str:
    """What the run takes, and what ``doctor`` asks for if that is more."""
    takes, least = page.tiers[0].host_ram_gib, page.least_free_ram_gib
    key = "sum_ram" if takes.expected < least else "sum_ram_alone"
    return say(lang, key, ram=amount(takes), least=f"{least:g}")


def _tiers(page: Requirements, lang: Lang) -> list[Block]:
    heads = ("col_tier", "col_meaning", "col_card", "col_settings", "col_vram", "col_ram")
    rows = []
    for one in page.tiers:
        card = say(lang, "no_card")
        if one.gpu_gb:
            card = say(lang, "tier_cards", gb=one.gpu_gb, names=some(one.gpus, 99))
        rows.append(
            (
                Cell(say(lang, one.tier)),
                Cell(say(lang, f"mean_{one.tier}")),
                Cell(card),
                Cell(settings_text(one.settings, lang)),
                Cell(amount(one.vram_gib)),
                Cell(amount(one.host_ram_gib)),
                Cell(amount(page.disk_gib["total"])),
                Cell(duration(one.hours, lang)),
            )
        )
    head = [say(lang, key) for key in heads]
    head += [say(lang, "col_disk"), say(lang, "col_time", files=number(page.files))]
    return [
        Paragraph(say(lang, "tiers_lead")),
        Table(tuple(head), tuple(rows)),
        Paragraph(say(lang, "cpu_note")),
    ]


def _disk(page: Requirements, lang: Lang) -> list[Block]:
    rows = tuple(
        (Cell(say(lang, item)), Cell(amount(page.disk_gib[item], 2))) for item in DISK_ITEMS
    )
    most = max(page.times[0].hours)
    note = say(
        lang, "disk_note", files=number(page.files), most=number(most),
        largest=amount(page.disk_largest_gib),
    )  # fmt: skip
    return [Table((say(lang, "col_item"), say(lang, "col_gib")), rows), Paragraph(note)]


def _software(page: Requirements, lang: Lang) -> list[Block]:
    software = page.software
    parts = [
        ("Python", say(lang, "versions", low=software.python[0], high=software.python[1])),
        ("PyTorch", say(lang, "versions", low=software.pytorch[0], high=software.pytorch[1])),
    ]
    for build in software.builds:
        needed = say(
            lang, "software_driver", tag=build.tag, cuda=build.cuda, driver=build.driver,
            low=build.capabilities[0], high=build.capabilities[1],
        )  # fmt: skip
        parts.append((say(lang, "driver"), needed))
    parts += [("cuDNN", say(lang, "software_cudnn")), ("bitsandbytes", say(lang, "software_bnb"))]
    return [
        Table(
            (say(lang, "col_part"), say(lang, "col_needed")),
            tuple((Cell(name), Cell(needed)) for name, needed in parts),
        ),
        Paragraph(say(lang, "software_check")),
        Code("repotune doctor" if lang == "en" else "repotune doctor --lang ko"),
    ]


def _sources(page: Requirements, lang: Lang) -> list[Block]:
    rows = [
        (Cell(say(lang, f"source_{one.of}")), Cell(one.title), Cell(one.date))
        for one in page.sources
    ]
    rows.append(
        (
            Cell(say(lang, "source_engine")),
            Cell(translated(page.measured, lang)),
            Cell(page.measured.rpartition(", ")[2]),
        )
    )
    head = tuple(say(lang, key) for key in ("col_what", "col_source", "col_day"))
    return [Table(head, tuple(rows)), Paragraph(say(lang, "made"))]
