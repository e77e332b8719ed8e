"""Times as people say them."""

from __future__ import annotations

from typing import Final

from repotune.records import Range

HOURS_A_DAY: Final = 24
WHOLE: Final = 100
WHOLE_MINUTES: Final = 10
"""From here on without a decimal."""
FACTORS: Final = {"days": 1 / HOURS_A_DAY, "hours": 1.0, "minutes": 60.0}


def unit_of(hours: float) -> str:
    """The unit in which a time reads best."""
    if hours >= 2 * HOURS_A_DAY:
        return "days"
    return "hours" if hours >= 1 else "minutes"


def duration(hours: Range) -> str:
    """``4.5 hours (2.3 to 8.9)``, in the unit that suits the expected value."""
    unit = unit_of(hours.expected)
    low, expected, high = (_short(one, unit) for one in (hours.low, hours.expected, hours.high))
    return f"{expected} {unit} ({low} to {high})"


def brief(hours: Range) -> str:
    """``4.5 hours``: the expected value alone, for a part of a time."""
    unit = unit_of(hours.expected)
    return f"{_short(hours.expected, unit)} {unit}"


def span(hours: Range) -> str:
    """``2.3 to 8.9 hours``, where there is room for little."""
    unit = unit_of(hours.expected)
    return f"{_short(hours.low, unit)} to {_short(hours.high, unit)} {unit}"


def _short(hours: float, unit: str) -> str:
    """Two or three figures: more would promise too much."""
    value = hours * FACTORS[unit]
    whole = WHOLE_MINUTES if unit == "minutes" else WHOLE
    return f"{value:,.0f}" if value >= whole else f"{value:.1f}"
