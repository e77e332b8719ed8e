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
        self, row: Row, *, scale: float, policy: Policy, dropout_seed: int | None,
        between_layers: Callable[[], None],
    ) -> Tensor:  # fmt: skip
        """Sum of the row's token losses in nats, []; adds ``scale`` × its gradient to ``.grad``.

        ``between_layers`` may raise, which breaks the row off.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What one step gave; fields as in ``events.StepDone``."""

    loss: float
    grad_norm: float | None
    """None: the gradient overflowed, and the weights stay as they were."""
    loss_scale: float | None
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
    loss_scale: float | None,
    between_layers: Callable[[], None],
    between_passes: Callable[[], None],
) -> StepFigures:
    """Add up the gradients of all samples' losses, clip, update the weights.

    The loss is a sum over all targets of the global batch, divided once by their number, however
    the batch is cut into forward passes of ``rows_per_pass`` rows. ``step`` (1-based) is for
    messages. With a ``loss_scale``, gradients are computed times it and divided by it before they
    are clipped; one that is not finite then is an overflow, which skips the update.

    Raises TrainingError, with the weights as they were, if a loss is not a finite number, if the
    gradient is not and there is no ``loss_scale``, or if no position has a label.
    """
    targets = sum(int(np.count_nonzero(sample.row.labels != IGNORE)) for sample in samples)
    if not targets:
        raise TrainingError(
            f"Step {step} has nothing to learn from, because {_named(samples)} holds no label: "
            "start a new run, which makes the rows anew."
        )
    optimizer.zero_grad()
    passes = [samples[i : i + rows_per_pass] for i in range(0, len(samples), rows_per_pass)]
    losses = []
    for together in passes:
        loss = decoder.loss_and_grad(
            joined([sample.row for sample in together]),
            scale=(loss_scale or 1.0) / targets,
            policy=policy,
            dropout_seed=pass_seed(together),
            between_layers=between_layers,
        )
        losses.append(loss)
        between_passes()
    # A GPU is not waited for until the whole step is on its way; the optimizer itself passes over
    # a step whose loss or gradient is not finite.
    each_loss = torch.stack(losses)
    if loss_scale is not None:
        optimizer.unscale(loss_scale)
    norm = optimizer.clip(max_grad_norm)
    optimizer.step(learning_rate, figures=torch.stack([each_loss.sum(), norm]))
    decoder.refresh()
    for loss, together in zip(each_loss.tolist(), passes, strict=True):
        if not math.isfinite(loss):
            raise TrainingError(_not_finite("loss", loss, step, together, learning_rate))
    grad_norm = float(norm)
    overflowed = not math.isfinite(grad_norm)
    if overflowed and loss_scale is None:
        raise TrainingError(_not_finite("gradient", grad_norm, step, samples, learning_rate))
    return StepFigures(
        loss=float(each_loss.sum()) / targets,
        grad_norm=None if overflowed else grad_norm,
        loss_scale=loss_scale,
        tokens=sum(tokens_in(sample.row) for sample in samples),
    )


def pass_seed(samples: Sequence[Sample]) -> int | None:
    """The seed of a pass's dropout masks, which are drawn over all of its rows at once.

    A row alone has its own; the seeds of several, in their order, are hashed into one.
    """
    seeds = [sample.dropout_seed for sample in samples if sample.dropout_seed is not None]
    if len(seeds) < 2:
        return seeds[0] if seeds else None
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])


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
    return (
        f"The {what} became {value} at step {step} (learning rate {learning_rate:.3g}, "
        f"{_named(samples)}), and the weights stay as they were "
        'before it: start again with a lower learning_rate, or with precision = "fp32".'
    )


def _named(samples: Sequence[Sample]) -> str:
    rows = ", ".join(str(sample.index) for sample in samples)
    return f"{'row' if len(samples) == 1 else 'rows'} {rows}"
