"""The loss on a fixed sample of held-out code, cheap enough to be measured during the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from repotune.evaluation.bits_per_byte import pack
from repotune.evaluation.excerpts import choose_excerpts
from repotune.model import Decoder
from repotune.records import IGNORE, Document, Row
from repotune.tokens import CodeTokenizer


def sample_rows(
    documents: Sequence[Document], tokenizer: CodeTokenizer, *, max_seq_length: int,
    max_tokens: int, seed: int,
) -> tuple[Row, ...]:  # fmt: skip
    """About ``max_tokens`` tokens of ``documents`` as rows of at most ``max_seq_length``.

    Chosen as for the evaluation, by ``seed`` and the files alone; empty if nothing can be scored.
    """
    reading = choose_excerpts(
        documents, tokenizer, max_seq_length=max_seq_length, max_tokens=max_tokens, seed=seed
    )
    return tuple(row for row, _ in pack(reading.excerpts, max_seq_length))


def sample_loss(
    decoder: Decoder, rows: Sequence[Row], *, should_stop: Callable[[], bool]
) -> float | None:
    """Mean nats per target of ``rows`` with the adapter; None once ``should_stop`` says yes."""

    def between_layers() -> None:
        if should_stop():
            raise _Stopped

    nats, targets = 0.0, 0
    try:
        for row in rows:
            losses = decoder.token_losses(row, adapted=True, between_layers=between_layers)
            nats += float(losses.double().sum())
            targets += int((row.labels != IGNORE).sum())
    except _Stopped:
        return None
    return nats / targets


class _Stopped(Exception):
    """Somebody wants the training to stop, and a row of a large model takes a minute on a CPU."""
