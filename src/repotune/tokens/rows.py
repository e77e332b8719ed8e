"""Documents to rows on disk: tokenise, cut, pack, write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Final

from repotune.errors import CorpusError
from repotune.events import Emit, StageDone, StageProgress, StageStarted
from repotune.records import Document, RowsSummary
from repotune.tokens.pack import pack
from repotune.tokens.pieces import Cutter, Piece
from repotune.tokens.shards import layout_for, write_rows
from repotune.tokens.tokenizer import CodeTokenizer

_STAGE: Final = "tokens"
_CHARACTERS_AT_ONCE: Final = 1 << 21
"""Encoded together: enough work for all cores, and little memory beside the rows."""


def build_rows(
    documents: Iterable[Document],
    tokenizer: CodeTokenizer,
    folder: Path,
    *,
    max_seq_length: int,
    fim_rate: float,
    seed: int,
    emit: Emit,
) -> RowsSummary:
    """Make rows of exactly ``max_seq_length`` ids of ``documents`` and write them to ``folder``.

    The same documents give the same rows, in whatever order they come. ``fim_rate`` of the pieces
    become prefix, suffix, middle if the model has tokens for it. The ids of all documents are in
    memory until they are written, 4 bytes each. Raises CorpusError if nothing is left to train
    on, RunError or DiskFull if the folder exists or cannot be written.
    """
    total = len(documents) if isinstance(documents, Sized) else None
    emit(StageStarted(stage=_STAGE, total=total, unit="files"))
    cutter = Cutter(tokenizer, max_seq_length, fim_rate, seed)
    pieces: list[Piece] = []
    set_aside: dict[str, str] = {}
    tokens_seen = done = 0
    for some in _batches(documents):
        cut = cutter.cut(some)
        pieces.extend(cut.pieces)
        set_aside.update(cut.set_aside)
        tokens_seen += cut.tokens
        done += len(some)
        emit(StageProgress(stage=_STAGE, done=done))
    if not pieces:
        why = f": {next(iter(set_aside.values()))}" if set_aside else ""
        raise CorpusError(
            f"None of {done} training files gave any tokens to learn from{why}; give a folder "
            "with more source code."
        )
    pieces.sort(key=lambda piece: (piece.path, piece.place))
    rows = [
        [pieces[number] for number in row]
        for row in pack([len(piece.ids) for piece in pieces], max_seq_length)
    ]
    summary = write_rows(
        folder,
        rows,
        layout_for(tokenizer.vocab_size, max_seq_length, tokenizer.eos_id),
        _summary(rows, max_seq_length, tokens_seen, set_aside),
        {"tokenizer": tokenizer.fingerprint, "fim_rate": fim_rate, "seed": seed},
    )
    emit(StageDone(stage=_STAGE, summary=_phrase(summary, max_seq_length)))
    return summary


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    some: list[Document] = []
    characters = 0
    for document in documents:
        some.append(document)
        characters += len(document.text)
        if characters >= _CHARACTERS_AT_ONCE:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _summary(
    rows: list[list[Piece]], max_seq_length: int, tokens_seen: int, set_aside: dict[str, str]
) -> RowsSummary:
    """Counted from what stands in the rows, not from what was meant to."""
    placed = [piece for row in rows for piece in row]
    tokens = sum(len(piece.ids) for piece in placed)
    return RowsSummary(
        rows=len(rows),
        tokens=tokens,
        tokens_kept=sum(piece.source_tokens for piece in placed) / tokens_seen,
        fill=tokens / (len(rows) * max_seq_length),
        fim_documents=sum(piece.fim for piece in placed),
        set_aside=dict(sorted(set_aside.items())),
        fingerprint="",
    )


def _phrase(summary: RowsSummary, max_seq_length: int) -> str:
    phrase = (
        f"{summary.tokens:,} tokens in {summary.rows:,} rows of {max_seq_length:,}, "
        f"{summary.fill:.1%} filled"
    )
    if summary.fim_documents:
        phrase += f", {summary.fim_documents:,} pieces as fill in the middle"
    if summary.set_aside:
        phrase += f", {len(summary.set_aside):,} files set aside"
    return phrase
