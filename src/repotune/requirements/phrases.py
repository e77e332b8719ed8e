"""Figures, settings and claims as a few words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from repotune.records import CloudOffer, PageClaim, Range, Verdict
from repotune.requirements.blocks import Cell, Tone
from repotune.requirements.figures import Comparison, GpuRow, Requirements, Settings
from repotune.requirements.sentences import translated
from repotune.requirements.texts import Lang, say

Unit: TypeAlias = Literal["hours", "days", "minutes"]
HOURS: Final[dict[Unit, float]] = {"minutes": 1 / 60, "hours": 1.0, "days": 24.0}
TONES: Final[dict[Verdict, Tone]] = {"fits": "good", "tight": "warn", "does_not_fit": "bad"}
MANY: Final = 6
"""GPUs that a line names at most."""


def number(value: float, digits: int = 1) -> str:
    """``1,234.5``; whole from 100 on."""
    return f"{value:,.{0 if abs(value) >= 100 else digits}f}"


def amount(one: Range, digits: int = 1) -> str:
    """``8.1 (7.7–8.5)``, or one figure where the range has no width."""
    low, expected, high = (number(each, digits) for each in (one.low, one.expected, one.high))
    return expected if low == high else f"{expected} ({low}–{high})"


def unit_of(hours: float) -> Unit:
    """The unit in which a time reads best."""
    if hours >= 3 * HOURS["days"]:
        return "days"
    return "hours" if hours >= 1 else "minutes"


def duration(hours: Range, lang: Lang, unit: Unit | None = None) -> str:
    """``18.4 hours (12.3–28.6)``."""
    unit = unit or unit_of(hours.expected)
    factor = 1 / HOURS[unit]
    digits = 0 if unit == "minutes" else 1
    scaled = Range(
        low=hours.low * factor, expected=hours.expected * factor, high=hours.high * factor
    )
    expected, _, spread = amount(scaled, digits).partition(" ")
    gap = "" if lang == "ko" else " "
    return f"{expected}{gap}{say(lang, unit)} {spread}".rstrip()


def settings_text(one: Settings, lang: Lang) -> str:
    """``1 / 16 / 1024 / 4-bit``, in the order of the table's head."""
    bits = say(lang, "bits_4_word" if one.use_4bit else "bits_16_word")
    return f"{one.batch_size} / {one.gradient_accumulation_steps} / {one.max_seq_length} / {bits}"


def verdict_cell(verdict: Verdict, lang: Lang) -> Cell:
    """A verdict in its colour."""
    return Cell(say(lang, verdict), TONES[verdict])


def some(names: Sequence[str], most: int = MANY) -> str:
    """The first names of a list."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def limits(offer: CloudOffer, lang: Lang) -> str:
    """Of a session, of a week, and what a month's price pays for."""
    known = (
        ("hours_session", offer.session_limit_hours),
        ("hours_week", offer.weekly_limit_hours),
        ("hours_bought", offer.included_hours),
    )
    said = [say(lang, key, count=f"{value:g}") for key, value in known if value is not None]
    return ", ".join(said) or say(lang, "no_limit")


def price(offer: CloudOffer, lang: Lang) -> str:
    """By the hour or the month."""
    if offer.free:
        return say(lang, "free")
    return say(lang, f"per_{offer.per}", price=f"{offer.price:g}")


def comparison_row(one: Comparison, page: Requirements, lang: Lang) -> tuple[Cell, ...]:
    """What, the old page's, ours, and why they differ."""
    if one.claim.why is not None:
        why = Cell(translated(one.claim.why, lang))
    else:
        why = Cell(say(lang, "agrees" if one.verdict is None else "same_verdict"), "good")
    tone = "plain" if one.verdict is None else TONES[one.verdict]
    return (
        Cell(subject(one.claim, lang)),
        Cell(old_figure(one.claim, lang)),
        Cell(_ours(one, page, lang), tone),
        why,
    )


def subject(claim: PageClaim, lang: Lang) -> str:
    """What a claim is about."""
    about = claim.subject
    gpus = ", ".join(about.get("gpus", ())) or say(lang, "cpu")
    match claim.topic:
        case "vram":
            return f"{about['batch_size']} × {about['max_seq_length']}"
        case "preset":
            settings = Settings(
                batch_size=about["batch_size"],
                gradient_accumulation_steps=about["gradient_accumulation_steps"],
                max_seq_length=about["max_seq_length"],
                use_4bit=about["use_4bit"],
            )
            return f"{gpus}: {settings_text(settings, lang)}"
        case "time" if claim.unit == "times":
            return say(lang, "against", what=say(lang, "cpu"), other=gpus)
        case "time":
            return f"{gpus}, {say(lang, 'files_word', count=number(about['files']))}"
        case "tier" | "ram" | "disk":
            return _part(claim, lang)
        case "cloud":
            return f"{about['provider']}, {gpus}"
        case "software":
            return str(about["name"])
    return gpus


def old_figure(claim: PageClaim, lang: Lang) -> str:
    """As the old page has it."""
    says = None if claim.says is None else translated(claim.says, lang)
    if claim.unit == "times":
        return str(says)
    if claim.low is None:
        return says if claim.topic == "software" and says else say(lang, str(claim.says))
    if claim.unit == "hours":
        unit = _old_unit(claim.low)
        gap = "" if lang == "ko" else " "
        figure = f"{_span(claim, 1 / HOURS[unit])}{gap}{say(lang, unit)}"
    elif claim.topic == "cloud":
        figure = _money(claim.low, claim.unit, lang)
    else:
        one = _span(claim, 1.0)
        what = say(lang, "cores", count=one) if claim.unit == "cores" else f"{one} GB"
        figure = what if claim.high is not None else say(lang, "or_more", what=what)
    return figure if says is None else f"{figure} ({says})"


def _ours(one: Comparison, page: Requirements, lang: Lang) -> str:
    claim = one.claim
    if one.verdict is not None:
        row = _row(claim.subject["gpus"][0], page)
        return say(
            lang, "fits_in", verdict=say(lang, one.verdict),
            used=number(row.vram_gib.expected), free=number(row.available_gib),
        )  # fmt: skip
    if claim.topic == "software":
        return _floor(claim.subject["name"], page, lang)
    if one.ours is None:
        return say(lang, "not_computed")
    if claim.unit == "times":
        return f"× {amount(one.ours)}"
    if claim.unit == "hours":
        assert claim.low is not None
        return duration(one.ours, lang, _old_unit(claim.low))
    if claim.topic == "cloud":
        return _money(one.ours.expected, claim.unit, lang)
    if claim.topic == "tier":
        return f"{one.ours.expected:.0f} GB"
    digits = 2 if claim.topic == "disk" and one.ours.expected < 1 else 1
    return f"{amount(one.ours, digits)} GiB"


def _part(claim: PageClaim, lang: Lang) -> str:
    if "tier" not in claim.subject:
        return say(lang, claim.subject["item"])
    part = {"ram": "ram", "disk": "disk"}.get(claim.topic, "vram")
    if claim.unit == "cores":
        part = "cpu"
    what = f"{say(lang, claim.subject['tier'])}: {say(lang, part)}"
    return say(lang, "in_summary", what=what) if "in_summary" in claim.subject else what


def _old_unit(low: float) -> Unit:
    """The old page's own unit: minutes, hours, or whole days."""
    if low < 1:
        return "minutes"
    return "days" if low % HOURS["days"] == 0 else "hours"


def _span(claim: PageClaim, factor: float) -> str:
    assert claim.low is not None
    low = f"{claim.low * factor:.0f}"
    high = low if claim.high is None else f"{claim.high * factor:.0f}"
    return low if low == high else f"{low}–{high}"


def _money(value: float, unit: str, lang: Lang) -> str:
    if unit == "hours/week":
        return say(lang, "hours_week", count=f"{value:g}")
    if value == 0:
        return say(lang, "free")
    currency, _, per = unit.partition("/")
    return say(lang, f"per_{per}", price=f"{value:g} {currency}")


def _floor(name: str, page: Requirements, lang: Lang) -> str:
    software = page.software
    if name == "CUDA":
        return ", ".join(
            say(
                lang, "software_driver", tag=build.tag, cuda=build.cuda, driver=build.driver,
                low=build.capabilities[0], high=build.capabilities[1],
            )
            for build in software.builds
        )  # fmt: skip
    low, high = software.python if name == "Python" else software.pytorch
    return say(lang, "versions", low=low, high=high)


def _row(gpu: str, page: Requirements) -> GpuRow:
    return next(row for row in page.gpus if row.gpu.name == gpu)
