"""``metrics.jsonl`` as columns: what was logged, of whatever a line holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Points: TypeAlias = tuple[tuple[int, float], ...]
"""(step, value), ascending; only finite values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The curves of a run and what happened on the way; a curve that was not logged is empty."""

    loss: Points
    heldout_loss: Points
    learning_rate: Points
    grad_norm: Points
    tokens_per_second: Points
    memory_bytes: Points
    """The most since the step before; empty in runs of older versions."""
    steps_planned: int | None
    """As the last step said."""
    training_seconds: float
    """Of all steps; in runs of older versions from their tokens and speeds."""
    overflows: int
    """Steps in fp16 whose gradient overflowed, so that they changed nothing."""
    healed: tuple[tuple[int, str], ...]
    """(step, what was done about memory that ran out)."""
    unreadable: int
    """Lines that are no JSON object with a step."""

    @property
    def steps(self) -> int:
        """The last step that was done."""
        return self.loss[-1][0] if self.loss else 0


def parse_metrics(lines: Iterable[str]) -> Metrics:
    """The lines of ``metrics.jsonl``; the last one may be half written."""
    records, unreadable = [], 0
    for line in lines:
        record = _record(line)
        if record is None:
            unreadable += 1
        else:
            records.append(record)
    steps = [record for record in records if "loss" in record]
    return Metrics(
        loss=_points(records, "loss"),
        heldout_loss=_points(records, "heldout_loss"),
        learning_rate=_points(records, "learning_rate"),
        grad_norm=_points(records, "grad_norm"),
        tokens_per_second=_points(records, "tokens_per_second"),
        memory_bytes=_points(records, "memory_bytes"),
        steps_planned=steps[-1].get("steps") if steps else None,
        training_seconds=sum(_seconds(record) for record in steps),
        overflows=sum("grad_norm" in record and record["grad_norm"] is None for record in steps),
        healed=tuple(
            (record["step"], str(record["healed"])) for record in records if "healed" in record
        ),
        unreadable=unreadable,
    )


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return record


def _points(records: Iterable[Mapping[str, Any]], name: str) -> Points:
    found = {record["step"]: record[name] for record in records if _is_number(record.get(name))}
    return tuple(sorted(found.items()))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _seconds(record: Mapping[str, Any]) -> float:
    if _is_number(record.get("seconds")):
        return float(record["seconds"])
    tokens, speed = record.get("tokens"), record.get("tokens_per_second")
    if isinstance(tokens, int | float) and isinstance(speed, int | float) and speed > 0:
        return tokens / speed
    return 0.0
