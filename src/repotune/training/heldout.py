"""The loss on held-out code during the training: when it is measured, what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from repotune.events import Emit, HeldoutMeasured, Notice
from repotune.training.checkpoint import Best, Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Heldout:
    """What the loop needs to know of held-out code."""

    measure: Callable[[], float | None]
    """Mean nats per target of the same sample each time, by the weights as they are; None if it
    was asked to stop on the way."""
    every_steps: int
    patience: int | None
    """The training ends after so many measurements in a row that are no new best; None: never."""


def is_due(reached: Checkpoint, heldout: Heldout | None, steps: int) -> bool:
    """Whether to measure now. By the state alone, so that a resumed run does what is left to do."""
    if heldout is None or reached.step in (0, reached.best.measured):
        return False
    return reached.step % heldout.every_steps == 0 or reached.step == steps


def is_over(reached: Checkpoint, heldout: Heldout | None) -> bool:
    """Whether the loss has not fallen for as many measurements as the patience allows."""
    if heldout is None or heldout.patience is None:
        return False
    return reached.best.worse >= heldout.patience


def measured(reached: Checkpoint, heldout: Heldout, emit: Emit) -> Checkpoint:
    """``reached`` with the held-out loss after its step; as it is if that was broken off."""
    try:
        loss = heldout.measure()
    except torch.OutOfMemoryError:
        emit(Notice(message="The held-out loss was not measured: there was no memory for it."))
        return replace(reached, best=replace(reached.best, measured=reached.step))
    if loss is None:
        return reached
    best = judged(reached.best, reached.step, loss)
    emit(HeldoutMeasured(step=reached.step, loss=loss, is_best=best.step == reached.step))
    return replace(reached, best=best)


def judged(best: Best, step: int, loss: float) -> Best:
    """The best so far, ``loss`` after ``step`` considered; what is no number is never best."""
    if math.isfinite(loss) and (best.loss is None or loss < best.loss):
        return Best(step=step, loss=loss, measured=step, worse=0)
    return replace(best, measured=step, worse=best.worse + 1)
