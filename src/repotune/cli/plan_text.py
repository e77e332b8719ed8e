"""A plan as text: the verdict first, the memory as a bar by component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from repotune.planning import brief, duration, span
from repotune.records import OfferCost, Plan, Range, Verdict

WIDTH: Final = 100
BAR: Final = 60
WORDS: Final[dict[Verdict, str]] = {
    "fits": "fits",
    "tight": "tight",
    "does_not_fit": "does not fit",
}
FITS: Final[dict[Verdict, str]] = {"fits": "yes", "tight": "tight", "does_not_fit": "no"}
STYLES: Final[dict[Verdict, str]] = {
    "fits": "bold green",
    "tight": "bold yellow",
    "does_not_fit": "bold red",
}
COLOURS: Final = ("blue", "cyan", "magenta", "green", "yellow", "red", "bright_blue", "white")
LETTERS: Final = "WELASBDTCXYZ"
"""Of the bar's components, so that it can be read without colours."""
LEAST_SHOWN: Final = 0.05
"""GiB of an item of the disk, below which it would be shown as 0.0."""
SETTINGS: Final = ("batch_size", "gradient_accumulation_steps", "max_seq_length", "use_4bit")
FREE_OFFERS: Final = 3
PAID_OFFERS: Final = 5
"""How many are shown of those that can do the job: the quickest that are free, the cheapest."""


def print_plan(plan: Plan) -> None:
    """Print all of it."""
    console = _console()
    line = Text()
    line.append(WORDS[plan.verdict], style=STYLES[plan.verdict])
    line.append(f": {plan.model} on {plan.device}. {plan.reason}")
    console.print(line)
    if plan.nearest is not None:
        console.print(f"Nearest that fits: {plan.nearest.reason}")
    console.print()
    _print_memory(console, plan)
    _print_facts(console, plan)
    _print_offers(console, plan)
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note in plan.notes:
        notes.add_row("-", Text(note))
    console.print(notes)


def compare_table(plans: Sequence[Plan], *, by: Literal["device", "model"]) -> None:
    """Print a line for each plan; names are folded where a terminal is narrow, figures never."""
    console, one = _console(), plans[0]
    where = f"{one.model} on every known GPU" if by == "device" else f"Known models on {one.device}"
    table = Table(box=None, pad_edge=False)
    table.add_column("GPU" if by == "device" else "MODEL", overflow="fold")
    for name in ("FITS", "B x S", "BITS", "MEMORY, GiB", "TIME"):
        table.add_column(name, no_wrap=True)
    for plan in plans:
        config = plan.config
        table.add_row(
            plan.device if by == "device" else plan.model,
            Text(FITS[plan.verdict], style=STYLES[plan.verdict]),
            f"{config['batch_size']} x {config['max_seq_length']}",
            "4" if config["use_4bit"] else "32" if plan.precision == "fp32" else "16",
            f"{_peak(plan).expected:.1f} of {plan.memory_gib:.1f}",
            span(plan.hours) if plan.verdict != "does_not_fit" else "-",
        )
    console.print()
    console.print(f"{where}; B rows of S tokens in a pass, bits of a weight:")
    console.print(table)


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if console.width > WIDTH or not console.is_terminal:
        console.width = WIDTH
    return console


def _print_memory(console: Console, plan: Plan) -> None:
    """One bar for the device, and a line for each component."""
    if not plan.memory:
        return
    total = max(plan.memory_gib * 2**30, sum(part.bytes for part in plan.memory))
    bar, lines, drawn, used = Text("["), Table.grid(padding=(0, 2, 0, 0)), 0, 0
    for index, part in enumerate(plan.memory):
        letter, colour = LETTERS[index], COLOURS[index % len(COLOURS)]
        used += part.bytes
        end = round(BAR * used / total)
        bar.append(letter * (end - drawn), style=colour)
        drawn = end
        size = f"{part.bytes / 2**30:6.2f} GiB"
        lines.add_row(Text(f"  {letter}", style=colour), part.name, size, part.formula)
    bar.append("." * (BAR - drawn) + "]")
    where = "GPU memory" if plan.on_gpu else "RAM"
    console.print(f"{used / 2**30:.1f} of {plan.memory_gib:.1f} GiB of {where}:")
    console.print(bar)
    console.print(lines)
    console.print()


def _print_facts(console: Console, plan: Plan) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, text in _facts(plan).items():
        table.add_row(Text(name, no_wrap=True), Text(text))
    console.print(table)
    console.print()


def _facts(plan: Plan) -> dict[str, str]:
    """What a run needs and takes, in words; nothing of time where no settings fit."""
    disk = ", ".join(
        f"{name.replace('_', ' ')} {item.expected:.1f}"
        for name, item in plan.disk_gib.items()
        if name != "total" and item.high >= LEAST_SHOWN
    )
    low, high = _short(plan.tokens.low), _short(plan.tokens.high)
    rows = {
        "Settings": _settings(plan),
        "Precision": plan.precision,
        "Tokens": low if low == high else f"{low} to {high}",
        "GPU memory": f"{_gib(plan.peak_vram_gib)}; {_gib(plan.reserved_gib)} without the context"
        if plan.on_gpu
        else "none is used",
        "Host RAM": _gib(plan.host_ram_gib),
        "Disk": f"{_gib(plan.disk_gib['total'])}: {disk}",
    }
    if not plan.steps:
        return rows
    speed = plan.tokens_per_second
    rows["Speed"] = (
        f"{speed.expected:,.0f} tokens/s ({speed.low:,.0f} to {speed.high:,.0f}), "
        f"{plan.steps:,} steps"
    )
    rows["One epoch"] = duration(plan.hours_per_epoch)
    stages = ", ".join(
        f"{name} {brief(one)}" for name, one in plan.hours_by_stage.items() if one.expected
    )
    rows["In all"] = f"{duration(plan.hours)}: {stages}"
    if plan.electricity_kwh is not None:
        rows["Electricity"] = _electricity(plan.electricity_kwh, plan.electricity)
    return rows


def _electricity(kwh: Range, cost: Range | None) -> str:
    said = f"{kwh.low:.2f} to {kwh.high:.2f} kWh"
    if cost is None:
        return said
    price = cost.expected / kwh.expected
    return f"{said}; at {price:g} a kWh {cost.low:.2f} to {cost.high:.2f}"


def _settings(plan: Plan) -> str:
    names = SETTINGS if plan.on_gpu else SETTINGS[:-1]  # a processor knows no 4-bit weights
    return ", ".join(f"{name} = {str(plan.config[name]).lower()}" for name in names)


def _print_offers(console: Console, plan: Plan) -> None:
    """The quickest free and the cheapest paid offers on which the job fits."""
    possible = [one for one in plan.offers if one.verdict != "does_not_fit"]
    if not possible:
        return
    free = sorted((one for one in possible if one.offer.free), key=lambda one: one.hours.expected)
    paid = sorted(
        (one for one in possible if not one.offer.free), key=lambda one: one.money.expected
    )
    shown = free[:FREE_OFFERS] + paid[:PAID_OFFERS]
    model = possible[0].model
    if model != plan.model:
        console.print(
            f"On a rented GPU `repotune tune` takes {model} (--model {plan.model} keeps this one):"
        )
    table = Table(box=None, pad_edge=False)
    for name in ("CLOUD OFFER", "GPU"):
        table.add_column(name)
    for name in ("TIME", "MONEY", "SESSIONS"):
        table.add_column(name, no_wrap=True)
    for one in shown:
        table.add_row(
            f"{one.offer.provider} {one.offer.name}", one.offer.gpu, span(one.hours), _money(one),
            _sessions(one),
        )  # fmt: skip
    console.print(table)
    if len(possible) > len(shown):
        console.print(f"{len(possible) - len(shown)} more offers can do it: --json lists all.")
    console.print()


def _money(one: OfferCost) -> str:
    if one.offer.free:
        return "free"
    low, high, currency = f"{one.money.low:,.2f}", f"{one.money.high:,.2f}", one.offer.currency
    return f"{low} {currency}" if low == high else f"{low} to {high} {currency}"


def _sessions(one: OfferCost) -> str:
    """``3 in 2 weeks``; one session is all that an offer without a limit needs."""
    if one.offer.session_limit_hours is None:
        return "no limit"
    if one.weeks == 1:
        return str(one.sessions)
    return f"{one.sessions} in {one.weeks} weeks"


def _peak(plan: Plan) -> Range:
    return plan.peak_vram_gib if plan.on_gpu else plan.reserved_gib


def _gib(one: Range) -> str:
    return f"{one.expected:.1f} GiB ({one.low:.1f} to {one.high:.1f})"


def _short(tokens: float) -> str:
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e6 else f"{tokens:,.0f}"
