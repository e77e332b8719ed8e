"""What the long work says while it goes on; listeners turn it into a bar, JSON lines, TensorBoard.

Rooms receive ``emit: Emit`` as an argument and never print.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage begins; ``total`` is in ``unit`` where it is known beforehand."""

    stage: str
    total: int | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """``done`` so far, out of the stage's ``total``."""

    stage: str
    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDone:
    """A stage ended; ``summary`` is a phrase for the user."""

    stage: str
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know; the work goes on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """One optimizer step."""

    step: int
    """1-based: this many steps are done."""
    steps: int
    loss: float
    """Mean loss per target over the global batch, nats."""
    grad_norm: float | None
    """L2 norm of all LoRA gradients, before clipping; None if it overflowed fp16, so that no
    weight was updated."""
    learning_rate: float
    loss_scale: float | None = None
    """What the gradients of this step were scaled by; None where they are not."""
    tokens: int
    """Positions of this step that are not padding."""
    seconds: float
    """Since the step before, with what was saved or measured in between."""
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint is complete on disk."""

    step: int
    path: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutMeasured:
    """The loss on a fixed sample of held-out code, after ``step`` steps."""

    step: int
    loss: float
    """Mean loss per target, nats."""
    is_best: bool
    """Whether it was never lower in this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """Memory ran out in ``step``, which is repeated in another way, with the same global batch."""

    step: int
    remedy: str
    """A sentence for the user."""
    rows_per_pass: int
    tokens_per_pass: int
    passes: dict[str, Any]
    """``records.Passes`` from now on, in JSON's types."""


Event: TypeAlias = (
    StageStarted
    | StageProgress
    | StageDone
    | Notice
    | StepDone
    | CheckpointSaved
    | HeldoutMeasured
    | Healed
)
Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that drops everything."""
