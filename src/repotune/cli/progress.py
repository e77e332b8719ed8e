"""Listeners that show what the long work says: a bar on a terminal, else plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from repotune.events import (
    CheckpointSaved,
    Emit,
    Event,
    Healed,
    HeldoutMeasured,
    Notice,
    StageDone,
    StageProgress,
    StageStarted,
    StepDone,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

TRAINING = "training"
"""The bar that steps move, whether or not the training announced itself as a stage."""

_LINES_PER_TRAINING = 50


@contextmanager
def show_progress(stream: TextIO | None = None) -> Iterator[Emit]:
    """A listener that writes to ``stream`` (stderr if None): a bar if it is a terminal.

    A terminal that is closed, or a pipe that nobody reads, does not end the work.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _while_it_is_seen(Lines(stream))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[detail]}", markup=False),
        console=Console(file=stream),
    ) as progress:
        yield _while_it_is_seen(Bars(progress))


def _while_it_is_seen(show: Emit) -> Emit:
    """``show`` until it cannot write any more."""
    is_seen = True

    def listener(event: Event) -> None:
        nonlocal is_seen
        if is_seen:
            try:
                show(event)
            except OSError:
                is_seen = False

    return listener


class Lines:
    """Writes a line for each event that matters in a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Write the event's line, if it has one."""
        line = self._line(event)
        if line is not None:
            print(line, file=self._stream, flush=True)

    def _line(self, event: Event) -> str | None:
        match event:
            case StageStarted(stage=stage):
                return f"{stage} ..."
            case StepDone(step=step, steps=steps):
                every = max(1, steps // _LINES_PER_TRAINING)
                return step_text(event) if step % every == 0 or step in (1, steps) else None
            case _:
                return _lasting_line(event)


class Bars:
    """Moves one bar a stage on a terminal; a finished stage becomes a line above the bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, StageStarted] = {}

    def __call__(self, event: Event) -> None:
        """Move the event's bar."""
        match event:
            case StageStarted(stage=stage, total=total):
                self._remove(stage)
                self._started[stage] = event
                self._tasks[stage] = self._progress.add_task(stage, total=total, detail="")
            case StageProgress(stage=stage, done=done) if stage in self._tasks:
                self._move(stage, done)
            case StepDone(step=step, steps=steps):
                if TRAINING not in self._tasks:
                    self._tasks[TRAINING] = self._progress.add_task(TRAINING, detail="")
                self._progress.update(
                    self._tasks[TRAINING], total=steps, completed=step, detail=step_text(event)
                )
            case StageDone(stage=stage):
                self._remove(stage)
        line = _lasting_line(event)
        if line is not None:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _move(self, stage: str, done: int) -> None:
        start = self._started[stage]
        detail = amount(done, start.unit)
        if start.total is not None:
            detail = f"{detail} of {amount(start.total, start.unit)}"
        self._progress.update(self._tasks[stage], completed=done, detail=detail)

    def _remove(self, stage: str) -> None:
        task = self._tasks.pop(stage, None)
        if task is not None:
            self._progress.remove_task(task)


def step_text(event: StepDone) -> str:
    """``step 12/75  loss 1.234  310 tokens/s  3:12 left``."""
    return (
        f"step {event.step}/{event.steps}  loss {event.loss:.3f}  "
        f"{event.tokens_per_second:,.0f} tokens/s  {clock(event.seconds_left)} left"
    )


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _lasting_line(event: Event) -> str | None:
    """What stays on the screen after the moment, or None."""
    match event:
        case StageDone(stage=stage, summary=summary):
            return f"{stage}: {summary}"
        case Notice(message=message):
            return f"note: {message}"
        case CheckpointSaved(step=step, path=path):
            return f"checkpoint: step {step}, {path}"
        case HeldoutMeasured(step=step, loss=loss, is_best=is_best):
            lowest = ", the lowest so far" if is_best else ""
            return f"held out: loss {loss:.4f} after step {step}{lowest}"
        case Healed(step=step, remedy=remedy):
            return f"healed: memory ran out in step {step}, which is done again: {remedy}"
        case _:
            return None


def amount(count: int, unit: str) -> str:
    """``1,790 files`` or, for bytes, ``31.5 MB``."""
    return f"{count / 1e6:,.1f} MB" if unit == "bytes" else f"{count:,} {unit}".rstrip()
