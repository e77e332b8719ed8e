"""Steps as JSON lines and for TensorBoard: a listener for the loop's events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from repotune.durable import write_durably, writing
from repotune.events import Emit, Event, StepDone

_WHOLE = "; what was saved before is whole"
_CURVES = ("loss", "grad_norm", "learning_rate", "loss_scale", "tokens_per_second")
_FLUSH_SECONDS = 10


@contextmanager
def log_metrics(lines: Path, tensorboard: Path, *, reached: int) -> Iterator[Emit]:
    """A listener that appends each StepDone to the file ``lines`` and the folder ``tensorboard``.

    ``reached`` steps are done already; what was logged for later ones, before the run was stopped,
    is removed, so that each step stands there once. Raises DiskFull or RunError.
    """
    from torch.utils.tensorboard import SummaryWriter

    with writing(lines, note=_WHOLE):
        _cut_after(lines, reached)
    with writing(tensorboard, note=_WHOLE):
        # purge_step hides the steps from there on that an earlier writer left in the folder.
        board = SummaryWriter(str(tensorboard), purge_step=reached + 1, flush_secs=_FLUSH_SECONDS)

    def log(event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        figures = asdict(event)
        with writing(lines, note=_WHOLE), lines.open("ab") as file:
            file.write(json.dumps(figures, allow_nan=False).encode() + b"\n")
        with writing(tensorboard, note=_WHOLE):
            for curve in _CURVES:
                if figures[curve] is not None:
                    board.add_scalar(f"train/{curve}", figures[curve], event.step)

    try:
        yield log
    finally:
        with writing(tensorboard, note=_WHOLE):
            board.close()


def _cut_after(path: Path, step: int) -> None:
    """Keep only the whole lines of steps up to ``step``; a crash may have left half a line."""
    if not path.exists():
        return
    old = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in old if _step_of(line) <= step]
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
