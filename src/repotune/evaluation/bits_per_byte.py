"""How well the two models predict the excerpts: nats per file, summed over its tokens.

Bits per byte is the sum of all nats / (ln 2 × the bytes scored): unlike a loss per token it does
not depend on the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from repotune.errors import TrainingError
from repotune.evaluation.excerpts import Excerpt
from repotune.events import Emit, StageProgress
from repotune.model import Decoder
from repotune.records import IGNORE, FloatArray, IntArray, Row


def bits_per_byte(nats: FloatArray, byte_counts: IntArray) -> float:
    """Of all files together, from each one's sum of nats and bytes, both [files]."""
    return float(nats.sum() / (math.log(2) * byte_counts.sum()))


def nats_by_file(
    decoder: Decoder, excerpts: Sequence[Excerpt], *, max_seq_length: int, stage: str, emit: Emit
) -> tuple[FloatArray, FloatArray]:
    """Each excerpt's sum of token losses in nats, [files] fp64: of the base and of the tuned model.

    Both see the same rows. Progress is emitted for ``stage``, in scored tokens. Raises
    TrainingError if a loss is not a finite number.
    """
    base, tuned = np.zeros(len(excerpts)), np.zeros(len(excerpts))
    done = 0
    for row, owners in pack(excerpts, max_seq_length):
        for adapted, sums in ((False, base), (True, tuned)):
            losses = decoder.token_losses(row, adapted=adapted).double().cpu().numpy()
            np.add.at(sums, owners, np.add.reduceat(losses, row.starts))
        done += int((row.labels != IGNORE).sum())
        emit(StageProgress(stage=stage, done=done))
    for name, sums in (("base", base), ("tuned", tuned)):
        bad = np.flatnonzero(~np.isfinite(sums))
        if len(bad):
            raise TrainingError(
                f"The {name} model's loss on {excerpts[bad[0]].path} is not a finite number (and "
                f"on {len(bad) - 1} other files): tune again with a lower learning_rate, or with "
                "precision = fp32."
            )
    return base, tuned


def pack(excerpts: Sequence[Excerpt], max_seq_length: int) -> Iterator[tuple[Row, IntArray]]:
    """Rows of at most ``max_seq_length`` positions, and the excerpt that each piece is of.

    An excerpt is cut into windows that do not overlap; the last position of a window predicts the
    first token of the next, so that none goes unscored. Pieces share a row, in order, while they
    fit; rows are not padded, since nothing but their length would come of it.
    """
    ids: list[IntArray] = []
    labels: list[IntArray] = []
    owners: list[int] = []
    used = 0
    for owner, excerpt in enumerate(excerpts):
        inputs, targets = excerpt.sequence[:-1], excerpt.sequence[1:].copy()
        targets[: excerpt.first_scored - 1] = IGNORE
        for start in range(0, len(inputs), max_seq_length):
            window = slice(start, start + max_seq_length)
            if used + len(inputs[window]) > max_seq_length:
                yield _row(ids, labels), np.array(owners)
                ids, labels, owners, used = [], [], [], 0
            ids.append(inputs[window])
            labels.append(targets[window])
            owners.append(owner)
            used += len(inputs[window])
    if owners:
        yield _row(ids, labels), np.array(owners)


def _row(ids: Sequence[IntArray], labels: Sequence[IntArray]) -> Row:
    lengths = [len(piece) for piece in ids]
    return Row(
        input_ids=np.concatenate(ids),
        labels=np.concatenate(labels),
        starts=np.cumsum([0, *lengths[:-1]]),
    )
