"""The whole comparison of base and tuned on the held-out files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from repotune.corpus import repeated
from repotune.errors import CorpusError
from repotune.evaluation.bits_per_byte import bits_per_byte, nats_by_file
from repotune.evaluation.bootstrap import difference_interval
from repotune.evaluation.completions import write_infills, write_next_lines
from repotune.evaluation.cursors import draw_cursors, draw_gaps
from repotune.evaluation.excerpts import Excerpt, Reading, choose_excerpts
from repotune.evaluation.groups import group_figures, groups_of
from repotune.evaluation.line_figures import (
    INFILL,
    NEXT_LINE,
    compared,
    exact_match,
    line_groups,
)
from repotune.evaluation.names import defined_names
from repotune.evaluation.verdict import judge
from repotune.events import Emit, Notice, StageDone, StageStarted
from repotune.model import Decoder
from repotune.records import Compared, Completion, Document, Evaluation, FloatArray, IntArray
from repotune.tokens import CodeTokenizer

SCORING = "evaluation"
COMPLETING = "next lines"
FILLING = "gaps"
NEAR = 0.7
"""Jaccard similarity to a training file from which a held-out file says nothing."""


def evaluate(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    documents: Sequence[Document],
    *,
    training: Sequence[Document],
    max_seq_length: int,
    max_tokens: int | None,
    max_cursors: int,
    max_line_tokens: int,
    max_gaps: int,
    max_gap_tokens: int,
    max_prompt_tokens: int,
    seed: int,
    emit: Emit,
) -> Evaluation:
    """Compare the model without and with its adapter on ``documents``, all held out.

    A near-duplicate of one of ``training`` is in no figure; ``corpus`` keeps those on one side, so
    there is hardly one. What ``training`` defines are the repository's names.

    At most ``max_tokens`` ids are read (None: all), at most ``max_cursors`` next lines written,
    each of at most ``max_line_tokens``, and, where the tokenizer has tokens for it, at most
    ``max_gaps`` gaps filled, each with at most ``max_gap_tokens``. Which ones depends on ``seed``
    and the files, not on their order. Figures are empty where no place was found for them.

    Raises CorpusError if there is nothing to score, TrainingError if a loss is not finite.
    """
    documents, left_out = _without_repeated(documents, training, emit)
    reading = choose_excerpts(
        documents, tokenizer, max_seq_length=max_seq_length, max_tokens=max_tokens, seed=seed
    )
    excerpts = reading.excerpts
    _tell(reading, len(documents), emit)
    byte_counts = np.array([excerpt.bytes_scored for excerpt in excerpts])
    base_nats, tuned_nats = _score(decoder, excerpts, byte_counts, max_seq_length, emit)
    defined, where = defined_names(training), groups_of(documents)
    lines = _next_lines(
        decoder, tokenizer, documents, defined, max_cursors=max_cursors,
        max_seq_length=min(max_seq_length, max_prompt_tokens + max_line_tokens),
        max_line_tokens=max_line_tokens, seed=seed, emit=emit,
    )  # fmt: skip
    gaps = _gaps(
        decoder, tokenizer, documents, defined, max_gaps=max_gaps,
        max_seq_length=min(max_seq_length, max_prompt_tokens + max_gap_tokens),
        max_gap_tokens=max_gap_tokens, seed=seed, emit=emit,
    )  # fmt: skip
    of_lines = compared(lines, NEXT_LINE, seed=seed)
    found = Evaluation(
        files=len(excerpts),
        files_available=len(documents),
        tokens=sum(excerpt.tokens for excerpt in excerpts),
        bytes_scored=int(byte_counts.sum()),
        base_bits_per_byte=bits_per_byte(base_nats, byte_counts),
        tuned_bits_per_byte=bits_per_byte(tuned_nats, byte_counts),
        difference=difference_interval(base_nats, tuned_nats, byte_counts, seed=seed),
        cursors=len(lines),
        exact_match=_shares(of_lines, "exact_match"),
        edit_similarity=_shares(of_lines, "edit_similarity"),
        completions=tuple(lines),
        sampled=_sampled(
            reading, len(lines), len(gaps), bos=tokenizer.bos_id is not None, seed=seed
        ),
        names=of_lines["name_recall"].count if "name_recall" in of_lines else 0,
        name_recall=_shares(of_lines, "name_recall"),
        line_differences={
            name: one.difference for name, one in of_lines.items() if one.difference is not None
        },
        groups=group_figures(
            [excerpt.path for excerpt in excerpts], where, base_nats, tuned_nats, byte_counts,
            seed=seed,
        ),
        infill=compared(gaps, INFILL, seed=seed),
        infills=tuple(gaps),
        taught=bool(tokenizer.added_ids),
        line_groups=line_groups(lines, gaps, where, seed=seed),
        left_out=left_out,
    )  # fmt: skip
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


def _without_repeated(
    documents: Sequence[Document], training: Sequence[Document], emit: Emit
) -> tuple[list[Document], int]:
    """Those that are no near-duplicate of a training file, and how many are."""
    near = repeated([one.text for one in documents], (one.text for one in training), least=NEAR)
    if near:
        emit(
            Notice(
                message=f"{len(near)} of {len(documents)} held-out files are left out of all "
                f"figures, because they are near-duplicates (Jaccard {NEAR} or more) of a training "
                "file."
            )
        )
    return [one for place, one in enumerate(documents) if place not in near], len(near)


def _next_lines(
    decoder: Decoder, tokenizer: CodeTokenizer, documents: Sequence[Document],
    defined: frozenset[str], *, max_cursors: int, max_seq_length: int, max_line_tokens: int,
    seed: int, emit: Emit,
) -> list[Completion]:  # fmt: skip
    """What both models write at the cursors, as a stage of its own."""
    cursors = draw_cursors(documents, max_cursors=max_cursors, seed=seed)
    emit(StageStarted(stage=COMPLETING, total=len(cursors), unit="cursors"))
    lines = write_next_lines(
        decoder, tokenizer, cursors, defined=defined, max_seq_length=max_seq_length,
        max_line_tokens=max_line_tokens, stage=COMPLETING, emit=emit,
    )  # fmt: skip
    emit(StageDone(stage=COMPLETING, summary=_phrase(lines, "no line to complete was found")))
    return lines


def _gaps(
    decoder: Decoder, tokenizer: CodeTokenizer, documents: Sequence[Document],
    defined: frozenset[str], *, max_gaps: int, max_seq_length: int, max_gap_tokens: int,
    seed: int, emit: Emit,
) -> list[Completion]:  # fmt: skip
    """What both models fill in, as a stage of its own; nothing where they cannot."""
    if tokenizer.fim is None:
        return []
    gaps = draw_gaps(documents, max_gaps=max_gaps, seed=seed)
    emit(StageStarted(stage=FILLING, total=len(gaps), unit="gaps"))
    filled = write_infills(
        decoder, tokenizer, gaps, defined=defined, max_seq_length=max_seq_length,
        max_gap_tokens=max_gap_tokens, stage=FILLING, emit=emit,
    )  # fmt: skip
    emit(StageDone(stage=FILLING, summary=_phrase(filled, "no gap to fill was found")))
    return filled


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


def _shares(found: Mapping[str, Compared], name: str) -> dict[str, float]:
    return {"base": found[name].base, "tuned": found[name].tuned} if name in found else {}


def _phrase(completions: Sequence[Completion], none: str) -> str:
    if not completions:
        return none
    base = sum(exact_match(one.base, one.truth) for one in completions) / len(completions)
    tuned = sum(exact_match(one.tuned, one.truth) for one in completions) / len(completions)
    return f"{base:.1%} -> {tuned:.1%} of {len(completions)} completed exactly"


def _sampled(reading: Reading, lines: int, gaps: int, *, bos: bool, seed: int) -> str:
    if reading.cap is None:
        read = "all of every file"
    else:
        read = f"files drawn by seed {seed}, of each at most its first {reading.cap:,} tokens"
    context = "" if bos else ", the first token of each as context only"
    asked = f"{lines} next lines" + (f" and {gaps} gaps" if gaps else "")
    return f"{read}{context}; {asked} drawn by seed {seed}, evenly over the files"
