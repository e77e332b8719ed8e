"""How the last predictions on this machine did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from repotune.records import Outcome

LEAST_STEPS: Final = 20
"""Shorter runs are still warming up, and say little of the speed."""
LAST: Final = 5
"""Runs that are looked back on."""


def track_record(outcomes: Sequence[Outcome]) -> str | None:
    """One sentence on the last runs, oldest first in ``outcomes``; None where there were none."""
    last = [one for one in outcomes if one.steps >= LEAST_STEPS][-LAST:]
    speeds = [
        one.measured_tokens_per_second / one.predicted_tokens_per_second
        for one in last
        if one.predicted_tokens_per_second
    ]
    peaks = [
        one.measured_peak_bytes / one.predicted_peak_bytes
        for one in last
        if one.measured_peak_bytes and one.predicted_peak_bytes
    ]
    parts = []
    if speeds:
        parts.append(f"{_times(speeds)} the predicted speed")
    if peaks:
        parts.append(f"{_times(peaks)} the predicted peak of memory")
    if not parts:
        return None
    count = max(len(speeds), len(peaks))
    runs = "The last run here" if count == 1 else f"The last {count} runs here"
    return f"{runs} had {' and '.join(parts)}."


def _times(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return f"{low} times" if low == high else f"{low} to {high} times"
