"""The code of a plan: counted, estimated from a sample, or given as a number."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from repotune.errors import CorpusError, RepotuneError
from repotune.events import Emit, StageDone, StageStarted, ignore
from repotune.planning import BYTES_PER_TOKEN, Workload
from repotune.records import Range

if TYPE_CHECKING:
    from repotune.corpus.walk import Candidate
    from repotune.tokens import CodeTokenizer

SAMPLE: Final = 400
"""Files that are read; of up to so many all are."""
SAMPLE_SECONDS: Final = 8.0
CONFIDENCE: Final = 2.0
"""Standard errors of the sample's mean on either side: 95 %."""
DUPLICATES: Final = 0.95
"""Files that are equal are learned once, which a sample does not see."""


def given_code(files: int, tokens_per_file: float) -> Workload:
    """So many files, without a tree."""
    tokens = files * tokens_per_file
    return Workload(
        files=files,
        tokens=Range(low=tokens, expected=tokens, high=tokens),
        note=f"{files:,} files of {tokens_per_file:,.0f} tokens are taken as given.",
    )


def code_in(
    tree: Path, model: str, *, keep_vendored: bool, seed: int, emit: Emit = ignore
) -> Workload:
    """The files of ``tree`` that would be kept, and their tokens.

    Up to 400 files are read; of more, so many are sampled and the rest is estimated from their
    sizes. Raises CorpusError if there is no code.
    """
    from repotune.corpus.examine import examine
    from repotune.corpus.walk import Candidate, walk

    emit(StageStarted(stage="survey"))
    found = walk(tree, exclude=(), keep_vendored=keep_vendored)
    candidates = [one for one in found if isinstance(one, Candidate)]
    # A random order, so that whatever is read before the time is up is a sample.
    order = random.Random(seed).sample(candidates, len(candidates))
    deadline = time.monotonic() + SAMPLE_SECONDS
    read: list[tuple[Candidate, str | None]] = []
    for candidate in order[:SAMPLE]:
        read.append((candidate, examine(candidate).text))
        if time.monotonic() > deadline:
            break
    if not any(text for _, text in read):
        raise CorpusError(
            f"{tree} holds no code to learn from among {len(read)} files that were read: "
            "name a folder with source code."
        )
    workload = _estimate(candidates, read, _tokenizer_of(model))
    emit(StageDone(stage="survey", summary=workload.note))
    return workload


def _estimate(
    candidates: Sequence[Candidate],
    read: Sequence[tuple[Candidate, str | None]],
    tokenizer: CodeTokenizer | None,
) -> Workload:
    """Ratio estimate: tokens per byte on disk of the sample, times all bytes on disk."""
    texts = [text or "" for _, text in read]
    if tokenizer is None:
        counts = [len(text.encode()) / BYTES_PER_TOKEN.expected for text in texts]
    else:
        counts = [float(len(ids)) for ids in tokenizer.encode_lists(texts)]
    sizes = [candidate.size_bytes for candidate, _ in read]
    ratio = sum(counts) / sum(sizes)
    complete = len(read) == len(candidates)
    error = 0.0 if complete else CONFIDENCE * _relative_error(counts, sizes, ratio)
    tokens = ratio * sum(candidate.size_bytes for candidate in candidates)
    low, high = max(0.5, 1 - error) * DUPLICATES, 1 + error
    if tokenizer is None:
        low *= BYTES_PER_TOKEN.expected / BYTES_PER_TOKEN.high
        high *= BYTES_PER_TOKEN.expected / BYTES_PER_TOKEN.low
    kept = sum(bool(text) for text in texts)
    files = round(kept / len(read) * len(candidates))
    how = (
        "with the model's tokenizer"
        if tokenizer is not None
        else f"at {BYTES_PER_TOKEN.expected} bytes a token, since the tokenizer is not on this disk"
    )
    note = (
        f"{files:,} files with {tokens:,.0f} tokens were counted {how}."
        if complete
        else f"About {files:,} files with {tokens:,.0f} tokens are estimated from a sample of "
        f"{len(read)} of {len(candidates):,} files, {how}."
    )
    return Workload(
        files=files,
        tokens=Range(low=tokens * low, expected=tokens, high=tokens * high),
        note=note,
    )


def _relative_error(counts: Sequence[float], sizes: Sequence[int], ratio: float) -> float:
    """Standard error of a ratio estimate, over the estimate (Cochran, Sampling Techniques, 6.4)."""
    n = len(counts)
    residuals = sum((c - ratio * s) ** 2 for c, s in zip(counts, sizes, strict=True))
    return float((residuals / max(1, n - 1) / n) ** 0.5 / (sum(counts) / n))


def _tokenizer_of(model: str) -> CodeTokenizer | None:
    """The model's tokenizer, if it lies on this disk."""
    from repotune.model import resolve_model
    from repotune.tokens import load_tokenizer

    try:
        ref = resolve_model(model, revision=None, offline=True, cache=None, emit=ignore)
        return load_tokenizer(Path(ref.path))
    except RepotuneError:
        return None
