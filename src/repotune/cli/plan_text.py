"""A plan as text: the verdict first, the memory as a bar by component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from repotune.records import OfferCost, Plan, Range, Verdict

WIDTH: Final = 100
BAR: Final = 60
WORDS: Final[dict[Verdict, str]] = {
    "fits": "fits",
    "tight": "tight",
    "does_not_fit": "does not fit",
}
STYLES: Final[dict[Verdict, str]] = {
    "fits": "bold green",
    "tight": "bold yellow",
    "does_not_fit": "bold red",
}
COLOURS: Final = ("blue", "cyan", "magenta", "green", "yellow", "red", "bright_blue", "white")
LETTERS: Final = "WELASBDTCXYZ"
"""Of the bar's components, so that it can be read without colours."""
SETTINGS: Final = ("batch_size", "gradient_accumulation_steps", "max_seq_length", "use_4bit")
HOURS_A_DAY: Final = 24


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
    _print_offers(console, plan.offers)
    for note in plan.notes:
        console.print(Text(f"- {note}"))


def compare_table(plans: Sequence[Plan], *, by: Literal["device", "model"]) -> None:
    """Print a line for each plan."""
    console = _console()
    table = Table(box=None, pad_edge=False)
    names = ("GPU" if by == "device" else "MODEL", "VERDICT", "B x S", "BITS", "VRAM, GiB", "TIME")
    for name in names:
        table.add_column(name, no_wrap=True, justify="left")
    for plan in plans:
        config = plan.config
        table.add_row(
            plan.device if by == "device" else plan.model,
            Text(WORDS[plan.verdict], style=STYLES[plan.verdict]),
            f"{config['batch_size']} x {config['max_seq_length']}",
            "4" if config["use_4bit"] else "16",
            f"{plan.peak_vram_gib.expected:.1f} of {plan.memory_gib:.1f}",
            _time(plan.hours) if plan.hours.expected else "-",
        )
    console.print()
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
    bar, lines, drawn, used = Text("["), [], 0, 0
    for index, part in enumerate(plan.memory):
        letter, colour = LETTERS[index], COLOURS[index % len(COLOURS)]
        used += part.bytes
        end = round(BAR * used / total)
        bar.append(letter * (end - drawn), style=colour)
        drawn = end
        line = Text(f"  {letter} ", style=colour)
        line.append(f"{part.name:20}{part.bytes / 2**30:7.2f} GiB  {part.formula}", style="default")
        lines.append(line)
    where = "GPU memory" if plan.on_gpu else "RAM"
    bar.append(
        "." * (BAR - drawn) + f"] {used / 2**30:.1f} of {plan.memory_gib:.1f} GiB of {where}"
    )
    console.print(bar)
    for line in lines:
        console.print(line)
    console.print()


def _print_facts(console: Console, plan: Plan) -> None:
    config = ", ".join(f"{name} = {str(plan.config[name]).lower()}" for name in SETTINGS)
    disk = ", ".join(
        f"{name.replace('_', ' ')} {item.expected:.1f}"
        for name, item in plan.disk_gib.items()
        if name != "total"
    )
    speed = plan.tokens_per_second
    rows = {
        "Settings": config,
        "Tokens": f"{_short(plan.tokens.low)} to {_short(plan.tokens.high)}"
        if plan.tokens.low < plan.tokens.high
        else _short(plan.tokens.expected),
        "GPU memory": f"{_gib(plan.peak_vram_gib)}; {_gib(plan.reserved_gib)} without the context"
        if plan.on_gpu
        else "none",
        "Host RAM": _gib(plan.host_ram_gib),
        "Disk": f"{_gib(plan.disk_gib['total'])}: {disk}",
        "Speed": f"{speed.expected:,.0f} tokens/s ({speed.low:,.0f} to {speed.high:,.0f}), "
        f"{plan.steps:,} steps",
        "One epoch": _time(plan.hours_per_epoch),
        "In all": f"{_time(plan.hours)}, with start and evaluation",
    }
    if plan.electricity_kwh is not None:
        cost = plan.electricity
        rows["Electricity"] = (
            f"{plan.electricity_kwh.low:.1f} to {plan.electricity_kwh.high:.1f} kWh"
            + (f", {cost.low:.2f} to {cost.high:.2f}" if cost else "")
        )
    for name, text in rows.items():
        console.print(Text(f"{name:13}{text}"))
    console.print()


def _print_offers(console: Console, offers: Sequence[OfferCost]) -> None:
    possible = [offer for offer in offers if offer.verdict != "does_not_fit"]
    if not possible:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("CLOUD OFFER", "GPU", "HOURS", "MONEY", "SESSIONS", "WEEKS"):
        table.add_column(name, no_wrap=True)
    for one in sorted(possible, key=lambda one: one.money.expected):
        offer = one.offer
        table.add_row(
            f"{offer.provider} {offer.name}",
            offer.gpu,
            f"{one.hours.low:,.1f} to {one.hours.high:,.1f}",
            "free"
            if offer.free
            else f"{one.money.low:,.2f} to {one.money.high:,.2f} {offer.currency}",
            str(one.sessions) if offer.session_limit_hours else "no limit",
            str(one.weeks) if offer.weekly_limit_hours else "-",
        )
    console.print(table)
    console.print()


def _gib(one: Range) -> str:
    return f"{one.expected:.1f} GiB ({one.low:.1f} to {one.high:.1f})"


def _time(hours: Range) -> str:
    """In the unit that suits the expected value."""
    if hours.expected >= 2 * HOURS_A_DAY:
        factor, unit = 1 / HOURS_A_DAY, "days"
    elif hours.expected >= 1:
        factor, unit = 1.0, "hours"
    else:
        factor, unit = 60.0, "minutes"
    low, expected, high = (value * factor for value in (hours.low, hours.expected, hours.high))
    return f"{expected:.1f} {unit} ({low:.1f} to {high:.1f})"


def _short(tokens: float) -> str:
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e6 else f"{tokens:,.0f}"
