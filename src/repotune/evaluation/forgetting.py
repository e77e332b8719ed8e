"""What the tuned model lost of what the base could, on code that is not the user's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from repotune.errors import SandboxError
from repotune.evaluation.bits_per_byte import bits_per_byte, nats_by_file
from repotune.evaluation.bootstrap import difference_interval
from repotune.evaluation.excerpts import Excerpt, choose_excerpts
from repotune.evaluation.groups import MIN_FILES
from repotune.evaluation.human_eval import solve_tasks
from repotune.evaluation.library import draw_library
from repotune.evaluation.verdict import judge
from repotune.events import Emit, Notice, StageDone, StageStarted
from repotune.model import Decoder
from repotune.planning import Extent
from repotune.records import (
    Document,
    Evaluation,
    Forgetting,
    LibraryFigures,
    TaskFigures,
    TaskSet,
)
from repotune.sandbox import unavailable
from repotune.tokens import CodeTokenizer
from repotune.verdict_text import task_set

SCORING: Final = "standard library"


def measure_forgetting(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    training: Iterable[Document],
    *,
    extent: Extent,
    tasks: bool,
    max_seq_length: int,
    max_positions: int,
    workers: int,
    seed: int,
    emit: Emit,
) -> Forgetting:
    """Base against tuned on Python's standard library and, if ``tasks``, on programming tasks.

    What is nearly the same as a file of ``training`` is no measure of forgetting and left out.
    ``workers`` programs that the models wrote run at a time, in the sandbox; where there is none,
    the tasks are left out. What is not measured is said, and stands in the result. Raises
    TrainingError if a loss is not finite.
    """
    not_measured: list[str] = []
    figures = None
    library = draw_library(
        training, files=extent.library_files, characters=extent.library_characters, seed=seed
    )
    excerpts = choose_excerpts(
        library.documents, tokenizer, max_seq_length=max_seq_length, max_tokens=None, seed=seed
    ).excerpts
    if reason := _no_measure(library.near_duplicates, len(excerpts)):
        not_measured.append(f"Python's standard library was left out: {reason}.")
    else:
        figures = _score(decoder, excerpts, library.near_duplicates, max_seq_length, seed, emit)
    solved: list[TaskFigures] = []
    if tasks:
        sets: dict[TaskSet, int | None] = {
            "human_eval": extent.human_eval,
            "infilling": extent.infilling,
        }
        for name, most in sets.items():
            if reason := _no_tasks(name, tokenizer):
                not_measured.append(f"{task_set(name)} was left out: {reason}.")
                continue
            try:
                figures_of_set = solve_tasks(
                    decoder, tokenizer, name, most=most, max_positions=max_positions,
                    workers=workers, seed=seed, emit=emit,
                )  # fmt: skip
            except SandboxError as error:  # no process could be started, although one could before
                not_measured.append(f"{task_set(name)} was left out: {error}.")
            else:
                solved.append(figures_of_set)
    for sentence in not_measured:
        emit(Notice(message=sentence))
    return Forgetting(library=figures, tasks=tuple(solved), not_measured=tuple(not_measured))


def with_forgetting(evaluation: Evaluation, forgetting: Forgetting) -> Evaluation:
    """The evaluation with what was forgotten, and judged by that too."""
    found = replace(evaluation, forgetting=forgetting)
    return replace(found, judgement=judge(found))


def _no_measure(near: int, kept: int) -> str | None:
    """Why the library says nothing about forgetting, if so."""
    if near > kept:
        return (
            f"{near} of {kept + near} files drawn from it are near-duplicates of files that the "
            "model was trained on"
        )
    if kept < MIN_FILES:
        return f"only {kept} of its files can be read here, and {MIN_FILES} are the least"
    return None


def _no_tasks(name: TaskSet, tokenizer: CodeTokenizer) -> str | None:
    """Why the models cannot be given these tasks, if so."""
    if name == "infilling" and tokenizer.fim is None:
        return "the model has no tokens for filling in the middle"
    if name == "infilling" and tokenizer.added_ids:
        return "the base model was never taught to fill in the middle, so nothing can be forgotten"
    reason = unavailable()
    return reason and f"what the models write cannot be run safely here, since {reason}"


def _score(
    decoder: Decoder,
    excerpts: Sequence[Excerpt],
    near_duplicates: int,
    max_seq_length: int,
    seed: int,
    emit: Emit,
) -> LibraryFigures:
    """The excerpts of the library under both models, as a stage of its own."""
    byte_counts = np.array([excerpt.bytes_scored for excerpt in excerpts])
    tokens = sum(excerpt.tokens for excerpt in excerpts)
    emit(StageStarted(stage=SCORING, total=tokens, unit="tokens"))
    base_nats, tuned_nats = nats_by_file(
        decoder, excerpts, max_seq_length=max_seq_length, stage=SCORING, emit=emit
    )
    base, tuned = bits_per_byte(base_nats, byte_counts), bits_per_byte(tuned_nats, byte_counts)
    emit(StageDone(stage=SCORING, summary=f"{base:.4f} -> {tuned:.4f} bits per byte"))
    return LibraryFigures(
        files=len(excerpts),
        near_duplicates=near_duplicates,
        bytes_scored=int(byte_counts.sum()),
        base_bits_per_byte=base,
        tuned_bits_per_byte=tuned,
        difference=difference_interval(base_nats, tuned_nats, byte_counts, seed=seed),
    )
