"""The whole comparison of base and tuned on the held-out files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from repotune.errors import CorpusError
from repotune.evaluation.bits_per_byte import bits_per_byte, nats_by_file
from repotune.evaluation.bootstrap import difference_interval
from repotune.evaluation.completions import (
    figures,
    line_differences,
    name_recall,
    telling_first,
    write_next_lines,
)
from repotune.evaluation.cursors import Cursor, draw_cursors
from repotune.evaluation.excerpts import Excerpt, Reading, choose_excerpts
from repotune.evaluation.groups import group_figures
from repotune.evaluation.names import defined_names
from repotune.evaluation.verdict import judge
from repotune.events import Emit, Notice, StageDone, StageStarted
from repotune.model import Decoder
from repotune.records import Completion, Document, Evaluation, FloatArray, IntArray
from repotune.tokens import CodeTokenizer

SCORING = "evaluation"
COMPLETING = "next lines"


def evaluate(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    documents: Sequence[Document],
    *,
    training: Iterable[Document],
    max_seq_length: int,
    max_tokens: int | None,
    max_cursors: int,
    max_line_tokens: int,
    max_prompt_tokens: int,
    seed: int,
    emit: Emit,
) -> Evaluation:
    """Compare the model without and with its adapter on ``documents``, all held out.

    No held-out file is a near-duplicate of one of ``training``, since ``corpus`` keeps those on one
    side. What ``training`` defines are the repository's names.

    At most ``max_tokens`` ids are read (None: all), and at most ``max_cursors`` next lines
    written, each of at most ``max_line_tokens``. Which ones depends on ``seed`` and the files, not
    on their order. ``exact_match`` and ``edit_similarity`` are empty where no cursor was found.

    Raises CorpusError if there is nothing to score, TrainingError if a loss is not finite.
    """
    reading = choose_excerpts(
        documents, tokenizer, max_seq_length=max_seq_length, max_tokens=max_tokens, seed=seed
    )
    excerpts = reading.excerpts
    _tell(reading, len(documents), emit)
    byte_counts = np.array([excerpt.bytes_scored for excerpt in excerpts])
    base_nats, tuned_nats = _score(decoder, excerpts, byte_counts, max_seq_length, emit)
    completions = _next_lines(
        decoder,
        tokenizer,
        draw_cursors(documents, max_cursors=max_cursors, seed=seed),
        defined_names(training),
        max_seq_length=min(max_seq_length, max_prompt_tokens + max_line_tokens),
        max_line_tokens=max_line_tokens,
        emit=emit,
    )
    exact, alike = figures(completions)
    names, recall = name_recall(completions)
    found = Evaluation(
        files=len(excerpts),
        files_available=len(documents),
        tokens=sum(excerpt.tokens for excerpt in excerpts),
        bytes_scored=int(byte_counts.sum()),
        base_bits_per_byte=bits_per_byte(base_nats, byte_counts),
        tuned_bits_per_byte=bits_per_byte(tuned_nats, byte_counts),
        difference=difference_interval(base_nats, tuned_nats, byte_counts, seed=seed),
        cursors=len(completions),
        exact_match=exact,
        edit_similarity=alike,
        completions=telling_first(completions),
        sampled=_sampled(reading, len(completions), bos=tokenizer.bos_id is not None, seed=seed),
        names=names,
        name_recall=recall,
        line_differences=line_differences(completions, seed=seed),
        groups=group_figures(
            [excerpt.path for excerpt in excerpts],
            {document.path: document.language for document in documents},
            base_nats,
            tuned_nats,
            byte_counts,
            seed=seed,
        ),
    )
    return replace(found, judgement=judge(found))


def _score(
    decoder: Decoder,
    excerpts: Sequence[Excerpt],
    byte_counts: IntArray,
    max_seq_length: int,
    emit: Emit,
) -> tuple[FloatArray, FloatArray]:
    """The nats of each excerpt, base and tuned, as a stage of its own."""
    tokens = sum(excerpt.tokens for excerpt in excerpts)
    emit(StageStarted(stage=SCORING, total=tokens, unit="tokens"))
    base_nats, tuned_nats = nats_by_file(
        decoder, excerpts, max_seq_length=max_seq_length, stage=SCORING, emit=emit
    )
    base, tuned = bits_per_byte(base_nats, byte_counts), bits_per_byte(tuned_nats, byte_counts)
    emit(StageDone(stage=SCORING, summary=f"{base:.4f} -> {tuned:.4f} bits per byte"))
    return base_nats, tuned_nats


def _next_lines(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    cursors: Sequence[Cursor],
    defined: frozenset[str],
    *,
    max_seq_length: int,
    max_line_tokens: int,
    emit: Emit,
) -> list[Completion]:
    """What both models write at the cursors, as a stage of its own."""
    emit(StageStarted(stage=COMPLETING, total=len(cursors), unit="cursors"))
    completions = write_next_lines(
        decoder,
        tokenizer,
        cursors,
        defined=defined,
        max_seq_length=max_seq_length,
        max_line_tokens=max_line_tokens,
        stage=COMPLETING,
        emit=emit,
    )
    exact, _ = figures(completions)
    emit(StageDone(stage=COMPLETING, summary=_lines_phrase(completions, exact)))
    return completions


def _tell(reading: Reading, available: int, emit: Emit) -> None:
    """Say what could not be scored as it should."""
    if reading.not_exact:
        emit(
            Notice(
                message=f"{reading.not_exact} held-out files are left out of the bits per byte, "
                "because the tokenizer does not give them back byte for byte."
            )
        )
    if not reading.excerpts:
        raise CorpusError(
            f"There is nothing to evaluate on in {available} held-out files: raise heldout_share, "
            "or evaluate on more tokens."
        )
    if len(reading.excerpts) == 1:
        emit(
            Notice(
                message="Only 1 held-out file is scored, and one file gives no interval: the "
                "stated one is the widest. Raise heldout_share for a real one."
            )
        )


def _lines_phrase(completions: Sequence[Completion], exact: dict[str, float]) -> str:
    if not completions:
        return "no line to complete was found"
    return f"{exact['base']:.1%} -> {exact['tuned']:.1%} of {len(completions)} completed exactly"


def _sampled(reading: Reading, cursors: int, *, bos: bool, seed: int) -> str:
    if reading.cap is None:
        read = "all of every file"
    else:
        read = f"files drawn by seed {seed}, of each at most its first {reading.cap:,} tokens"
    context = "" if bos else ", the first token of each as context only"
    return f"{read}{context}; {cursors} next lines drawn by seed {seed}, evenly over the files"
