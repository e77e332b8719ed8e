"""Sections on GPUs, time, the CPU and the cloud."""

from __future__ import annotations

from typing import Final

from repotune.planning.policy import GIB, USABLE
from repotune.planning.target import HOST_FREE_BYTES
from repotune.records import OfferCost
from repotune.requirements.blocks import Block, Bullets, Cell, Paragraph, Table
from repotune.requirements.figures import CpuFigures, GpuRow, Requirements
from repotune.requirements.phrases import (
    amount,
    duration,
    limits,
    number,
    price,
    settings_text,
    verdict_cell,
)
from repotune.requirements.sentences import translated
from repotune.requirements.texts import Lang, say

SENSIBLE_HOURS: Final = 72
"""Who waits longer for a first result tries something else."""


def usual_row(page: Requirements, gpu: str) -> GpuRow:
    """The row of a GPU by its exact name."""
    return next(row for row in page.gpus if row.gpu.name == gpu)


def every_gpu(page: Requirements, lang: Lang) -> list[Block]:
    """Verdict, settings, memory and time of every card."""
    keys = ("col_gpu", "col_memory", "col_verdict", "col_settings", "col_preset", "col_of")
    head = [*(say(lang, key) for key in keys), say(lang, "col_time", files=number(page.files))]
    rows = tuple(_gpu(row, lang) for row in page.gpus)
    blocks: list[Block] = [
        Paragraph(
            say(
                lang,
                "gpus_lead",
                files=number(page.files),
                usable=f"{100 * USABLE['cuda']:.0f}",
                host=number(HOST_FREE_BYTES / GIB, 0),
            )
        ),
        Table(tuple(head), rows),
    ]
    old = [row.gpu.name for row in page.gpus if row.old_build]
    in_fp16 = [row.gpu.name for row in page.gpus if not row.gpu.bf16]
    last = page.software
    notes = [
        say(lang, "old_build", cuda=last.builds[-1].cuda, torch=last.pytorch[1],
            names=", ".join(old)),
        say(lang, "no_bf16", names=", ".join(in_fp16)),
    ]  # fmt: skip
    return [*blocks, Bullets(tuple(notes))]


def _gpu(row: GpuRow, lang: Lang) -> tuple[Cell, ...]:
    nowhere = row.verdict == "does_not_fit"
    return (
        Cell(row.gpu.name),
        Cell(f"{row.gpu.memory_gb}", "number"),
        verdict_cell(row.verdict, lang),
        Cell(settings_text(row.settings, lang)),
        Cell("–" if nowhere else say(lang, "old_page" if row.from_page else "planner")),
        Cell(
            f"{amount(row.vram_gib)} / {number(row.available_gib)}",
            share=min(1.0, row.vram_gib.expected / row.available_gib),
        ),
        Cell("–" if row.hours is None else duration(row.hours, lang)),
    )


def times(page: Requirements, lang: Lang) -> list[Block]:
    """By number of files and device."""
    counts = tuple(page.times[0].hours)
    head = [say(lang, "col_device"), say(lang, "col_settings")]
    head += [say(lang, "files_word", count=number(count)) for count in counts]
    rows = tuple(
        (
            Cell(row.device),
            Cell(settings_text(row.settings, lang)),
            *(Cell(duration(row.hours[count], lang)) for count in counts),
        )
        for row in page.times
        if row.hours[counts[0]].expected
    )
    return [Paragraph(say(lang, "times_lead")), Table(tuple(head), rows)]


def cpu_alone(page: Requirements, lang: Lang) -> list[Block]:
    """The verdict without a GPU."""
    cpu = page.cpu
    if cpu.hours is None or cpu.hours_bf16 is None:
        lead = say(
            lang, "cpu_not", need=amount(cpu.host_ram_gib), ram=f"{cpu.ram_gib:.0f}",
            starter=cpu.starter, starter_hours=duration(cpu.starter_hours, lang), cores=cpu.cores,
        )  # fmt: skip
    else:
        slow = cpu.hours.expected >= SENSIBLE_HOURS
        lead = say(
            lang, "cpu_lead", verdict=say(lang, "cpu_slow" if slow else "cpu_able"),
            files=number(page.files), hours=duration(cpu.hours, lang), cores=cpu.cores,
            times=number(cpu.times_slower), fast=cpu.compared_with, ram=amount(cpu.host_ram_gib),
            hours_bf16=duration(cpu.hours_bf16, lang), starter=cpu.starter,
            starter_hours=duration(cpu.starter_hours, lang),
        )  # fmt: skip
    blocks: list[Block] = [Paragraph(lead)]
    if page.tiers[0].gpu_gb:
        blocks.append(Paragraph(say(lang, "cpu_instead", gb=page.tiers[0].gpu_gb)))
    return blocks


def cpu_summary(cpu: CpuFigures, lang: Lang) -> str:
    """The same in a line."""
    if cpu.hours is None:
        return say(lang, "sum_cpu_not", ram=f"{cpu.ram_gib:.0f}", starter=cpu.starter)
    hours = duration(cpu.hours, lang)
    return say(lang, "sum_cpu", hours=hours, cores=cpu.cores, starter=cpu.starter)


def clouds(page: Requirements, lang: Lang) -> list[Block]:
    """Every offer with what the job costs there."""
    keys = ("col_offer", "col_gpu", "col_price", "col_limits", "col_verdict")
    head = [*(say(lang, key) for key in keys), say(lang, "col_time", files=number(page.files))]
    head += [say(lang, key) for key in ("col_money", "col_sessions", "col_date")]
    noted = dict.fromkeys(one.offer.note for one in page.offers if one.offer.note)
    notes = [
        ", ".join(f"{o.offer.provider} {o.offer.name}" for o in page.offers if o.offer.note == note)
        + ": "
        + translated(note, lang)
        for note in noted
        if note is not None
    ]
    return [
        Paragraph(say(lang, "clouds_lead", files=number(page.files))),
        Table(tuple(head), tuple(_offer(one, lang) for one in page.offers)),
        Bullets(tuple(notes)),
    ]


def _offer(one: OfferCost, lang: Lang) -> tuple[Cell, ...]:
    offer = one.offer
    nowhere = one.verdict == "does_not_fit"
    gpu = offer.gpu if offer.gpu_count == 1 else f"{offer.gpu_count} × {offer.gpu}"
    place = f", {offer.region}" if offer.region else ""
    return (
        Cell(f"{offer.provider} {offer.name}{place}"),
        Cell(gpu),
        Cell(price(offer, lang)),
        Cell(limits(offer, lang)),
        verdict_cell(one.verdict, lang),
        Cell("–" if nowhere else duration(one.hours, lang)),
        Cell("–" if nowhere else say(lang, "free") if offer.free else amount(one.money, 2)),
        Cell("–" if nowhere else f"{one.sessions} / {one.weeks}", "number"),
        Cell(f"{offer.source}, {offer.date}"),
    )
