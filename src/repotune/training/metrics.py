"""Steps as JSON lines and for TensorBoard: a listener for the loop's events."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from repotune.durable import when_there_is_room, write_durably, writing
from repotune.events import Emit, Event, Healed, HeldoutMeasured, StepDone
from repotune.training.curves import Curves

_WHOLE = "; what was saved before is whole"
_TRAIN = ("loss", "grad_norm", "learning_rate", "loss_scale", "tokens_per_second", "memory_bytes")
_CURVES = {**{name: f"train/{name}" for name in _TRAIN}, "heldout_loss": "heldout/loss"}
"""Of a line, and TensorBoard's tags."""


@contextmanager
def log_metrics(
    lines: Path, tensorboard: Path, *, reached: int, memory: Callable[[], int], emit: Emit,
    pause: Callable[[], bool],
) -> Iterator[Emit]:  # fmt: skip
    """A listener that appends what happens to the file ``lines`` and the folder ``tensorboard``.

    A line a step, and one for each held-out loss and each healing. A step's line also has the bytes
    that ``memory`` says: the most since it was asked last, at the step before. ``reached`` steps
    are done already; what was logged for later ones, before the run was stopped, is removed, so
    that each step stands there once. A full disk is waited for with ``pause``; TensorBoard's curves
    are given up where they cannot be written. Raises DiskFull or RunError.
    """
    with writing(lines, note=_WHOLE):
        _cut_after(lines, reached)
    with Curves(tensorboard, reached, emit) as curves:
        memory()  # what the loading took is no step's

        def log(event: Event) -> None:
            line = _line(event, memory)
            if line is None:
                return
            data = json.dumps(line, allow_nan=False).encode() + b"\n"
            when_there_is_room(partial(_append, lines, data), emit=emit, pause=pause)
            if points := _points(line):
                curves.add(line["step"], points)

        yield log


def _points(line: dict[str, Any]) -> dict[str, float]:
    """By tag."""
    return {tag: line[name] for name, tag in _CURVES.items() if line.get(name) is not None}


def _line(event: Event, memory: Callable[[], int]) -> dict[str, Any] | None:
    match event:
        case StepDone():
            return {**asdict(event), "memory_bytes": memory()}
        case HeldoutMeasured(step=step, loss=loss):
            return {"step": step, "heldout_loss": loss if math.isfinite(loss) else None}
        case Healed(step=step, remedy=remedy):
            return {"step": step, "healed": remedy}
        case _:
            return None


def _append(path: Path, data: bytes) -> None:
    with writing(path, note=_WHOLE, then="the run goes on by itself, or later with --resume"):
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError:
            with suppress(OSError):  # half a line would spoil the next one
                os.truncate(path, size)
            raise


def _cut_after(path: Path, step: int) -> None:
    """Keep only the whole lines of steps up to ``step``; a crash may have left half a line."""
    if not path.exists():
        return
    old = path.read_bytes().splitlines(keepends=True)
    # A resumed run measures the held-out loss of its first step again.
    kept = [line for line in old if _step_of(line) <= step - (b'"heldout_loss"' in line)]
    if kept != old:
        partial = path.with_name(f".{path.name}.partial")
        write_durably(partial, b"".join(kept))
        partial.replace(path)


def _step_of(line: bytes) -> float:
    """The line's step, or infinity for a line that is not whole."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
