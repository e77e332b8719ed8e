"""One optimizer step over one global batch of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from repotune.errors import TrainingError
from repotune.records import IGNORE, Policy, Row
from repotune.training.optimizer import AdamW
from repotune.training.order import Sample


class Trainable(Protocol):
    """What training needs of a model; ``model.Decoder`` is one."""

    def lora_state(self) -> dict[str, Tensor]:
        """The fp32 weights to train, by name, with their gradients in ``.grad``."""
        ...

    def lora_flat(self) -> Tensor:
        """All of them as one tensor [N], of which they are views; ``.grad`` is all gradients."""
        ...

    def refresh(self) -> None:
        """Take over weights of ``lora_state`` that were changed in place."""
        ...

    def release(self) -> None:
        """Let go of the memory that is kept from row to row, also after a row that broke off."""
        ...

    def loss_and_grad(
        self, row: Row, *, scale: float, policy: Policy, dropout_seed: int | None
    ) -> Tensor:
        """Sum of the row's token losses in nats, []; adds ``scale`` × its gradient to ``.grad``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What one step gave; fields as in ``events.StepDone``."""

    loss: float
    grad_norm: float
    tokens: int


def train_step(
    decoder: Trainable,
    optimizer: AdamW,
    samples: Sequence[Sample],
    *,
    step: int,
    learning_rate: float,
    max_grad_norm: float,
    policy: Policy,
    rows_per_pass: int,
    between_passes: Callable[[], None],
) -> StepFigures:
    """Add up the gradients of all samples' losses, clip, update the weights.

    The loss is a sum over all targets of the global batch, divided once by their number, however
    the batch is cut into forward passes of ``rows_per_pass`` rows. ``step`` (1-based) is for
    messages. Raises TrainingError, with the weights as they were, if a loss or the gradient is not
    a finite number.
    """
    targets = sum(int(np.count_nonzero(sample.row.labels != IGNORE)) for sample in samples)
    assert targets, "rows without a label"
    optimizer.zero_grad()
    passes = [samples[i : i + rows_per_pass] for i in range(0, len(samples), rows_per_pass)]
    losses = []
    for together in passes:
        loss = decoder.loss_and_grad(
            joined([sample.row for sample in together]),
            scale=1.0 / targets,
            policy=policy,
            dropout_seed=together[0].dropout_seed,
        )
        losses.append(loss)
        between_passes()
    # A GPU is not waited for until the whole step is on its way; the optimizer itself passes over
    # a step whose loss or gradient is not finite.
    each_loss = torch.stack(losses)
    norm = optimizer.clip(max_grad_norm)
    optimizer.step(learning_rate, figures=torch.stack([each_loss.sum(), norm]))
    decoder.refresh()
    for loss, together in zip(each_loss.tolist(), passes, strict=True):
        if not math.isfinite(loss):
            raise TrainingError(_not_finite("loss", loss, step, together, learning_rate))
    grad_norm = float(norm)
    if not math.isfinite(grad_norm):
        raise TrainingError(_not_finite("gradient", grad_norm, step, samples, learning_rate))
    return StepFigures(
        loss=float(each_loss.sum()) / targets,
        grad_norm=grad_norm,
        tokens=sum(tokens_in(sample.row) for sample in samples),
    )


def joined(rows: Sequence[Row]) -> Row:
    """The rows as one, whose documents are all of theirs: attention crosses no document."""
    if len(rows) == 1:
        return rows[0]
    offsets = np.cumsum([0, *(len(row.input_ids) for row in rows[:-1])])
    return Row(
        input_ids=np.concatenate([row.input_ids for row in rows]),
        labels=np.concatenate([row.labels for row in rows]),
        starts=np.concatenate([row.starts + at for row, at in zip(rows, offsets, strict=True)]),
    )


def tokens_in(row: Row) -> int:
    """Positions of ``row`` that are not padding, which is a last document without labels."""
    last = int(row.starts[-1])
    padded = bool(np.all(row.labels[last:] == IGNORE))
    return last if padded else len(row.input_ids)


def _not_finite(
    what: str, value: float, step: int, samples: Sequence[Sample], learning_rate: float
) -> str:
    rows = ", ".join(str(sample.index) for sample in samples)
    return (
        f"The {what} became {value} at step {step} (learning rate {learning_rate:.3g}, "
        f"{'row' if len(samples) == 1 else 'rows'} {rows}), and the weights stay as they were "
        'before it: start again with a lower learning_rate, or with precision = "fp32".'
    )
