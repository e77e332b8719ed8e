"""From a source tree to documents: every file is looked at, and what becomes of it is recorded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from repotune.corpus.canaries import plant
from repotune.corpus.examine import Examined, examine, passed_over
from repotune.corpus.manifest import FileLine
from repotune.corpus.secrets import replace_values
from repotune.corpus.shingles import shingles, word_hashes
from repotune.corpus.split import split_documents
from repotune.corpus.store import write_corpus
from repotune.corpus.walk import walk
from repotune.durable import partial_of
from repotune.errors import CorpusError
from repotune.events import Emit, StageDone, StageProgress, StageStarted
from repotune.records import Canary, CorpusSummary, Document

VERSION = 1
"""Raised when the same tree gives other documents or other splits."""

_STAGE = "corpus"
_FILES_PER_PROGRESS = 64
_REASONS_SHOWN = 3
_SECRET_ROUNDS = 5
"""Of taking the secrets of each file out of all others. Two are enough unless a replaced value
brings another to light, and so on."""


def build_corpus(
    root: Path,
    folder: Path,
    *,
    heldout_share: float,
    seed: int,
    keep_vendored: bool,
    exclude: tuple[Path, ...],
    canaries: int,
    emit: Emit,
) -> CorpusSummary:
    """Read the tree ``root`` and write what is worth learning from to ``folder``.

    ``folder`` must not exist; it appears at the end, whole. ``heldout_share`` of the files, from 0
    to 1, is kept from training, chosen by ``seed``; a file and its near-duplicates are on one
    side. ``exclude`` names folders and files that are passed over. So many random lines as
    ``canaries`` says are put into training files, see ``canaries.py``.
    Raises CorpusError if the tree cannot be read or holds nothing to learn from or to hold out,
    DiskFull or RunError if ``folder`` cannot be written.
    """
    assert not folder.exists(), folder
    if heldout_share > 0 and root.is_file():
        raise CorpusError(
            f"{root} is one file, so nothing can be held out for the evaluation: give a folder, or "
            "set heldout_share to 0 and evaluate to false."
        )
    found = walk(root, exclude=(*exclude, folder, partial_of(folder)), keep_vendored=keep_vendored)
    emit(StageStarted(stage=_STAGE, total=len(found), unit="files"))
    files: list[Examined] = []
    for number, one in enumerate(found):
        if number % _FILES_PER_PROGRESS == 0:
            emit(StageProgress(stage=_STAGE, done=number))
        files.append(passed_over(one) if isinstance(one, FileLine) else examine(one))
    values = _take_out_secrets(files)
    _take_out_duplicates(files)
    _refuse_nothing(root, files)
    _split(files, heldout_share, seed)
    documents = [_document(one, values) for one in files if one.text is not None]
    planted: list[Canary] = []
    if canaries:
        documents, planted = plant(documents, canaries, seed=seed)
    lines = [replace(one.line, path=_without(values, one.line.path)) for one in files]
    summary = _summarise(files, documents)
    write_corpus(folder, lines, documents, summary, planted)
    emit(StageProgress(stage=_STAGE, done=len(found)))
    emit(StageDone(stage=_STAGE, summary=_phrase(summary)))
    return summary


def _take_out_secrets(files: Sequence[Examined]) -> dict[str, str]:
    """Replace what was found in one file in all others; return every secret with its kind."""
    known: dict[str, str] = {}
    for _ in range(_SECRET_ROUNDS):
        # A value that two rules know has one kind everywhere: that of the first file.
        new = {
            v: kind for one in reversed(files) for v, kind in one.values.items() if v not in known
        }
        if not new:
            return known
        known |= new
        for one in files:
            one.replace_secrets(known)
    for one in files:
        if not one.values.keys() <= known.keys():
            one.leave_out("secrets not removable")
    return known


def _take_out_duplicates(files: Sequence[Examined]) -> None:
    first: dict[bytes, str] = {}
    for one in files:
        if one.text is not None:
            digest = hashlib.sha256(one.text.encode()).digest()
            original = first.setdefault(digest, one.line.path)
            if original != one.line.path:
                one.leave_out("duplicate", f"of {original}")


def _refuse_nothing(root: Path, files: Sequence[Examined]) -> None:
    """Raise CorpusError if there is no code to learn from."""
    if any(one.is_code and one.text is not None for one in files):
        return
    if not files:
        raise CorpusError(f"{root} is empty: name a folder with source code.")
    count = f"{len(files)} {'file' if len(files) == 1 else 'files'}"
    reasons = _top(Counter(one.line.reason or "no code" for one in files))
    if not any(one.is_code for one in files):
        raise CorpusError(
            f"{root} holds no source code among its {count} ({reasons}): name a folder with "
            "source code."
        )
    raise CorpusError(
        f"{root} holds source code, but none of its {count} is fit to learn from ({reasons}): "
        "name a folder with code that people wrote, or set keep_vendored if it is vendored code."
    )


def _split(files: Sequence[Examined], share: float, seed: int) -> None:
    kept = [one for one in files if one.text is not None]
    clusters, heldout = split_documents(
        [one.line.path for one in kept],
        [shingles(word_hashes(one.text)) for one in kept if one.text is not None],
        share=share,
        seed=seed,
    )
    for number, (one, cluster) in enumerate(zip(kept, clusters, strict=True)):
        one.line = replace(
            one.line, cluster=cluster, split="heldout" if number in heldout else "train"
        )


def _document(one: Examined, values: dict[str, str]) -> Document:
    line = one.line
    assert one.text is not None
    assert line.language is not None
    assert line.sha256 is not None
    assert line.cluster is not None
    assert line.split is not None
    assert line.encoding is not None
    return Document(
        path=_without(values, line.path),
        language=line.language,
        text=one.text,
        sha256=line.sha256,
        cluster=line.cluster,
        split=line.split,
        encoding=line.encoding,
        licence=line.licence,
    )


def _without(values: dict[str, str], path: str) -> str:
    """``path``, which may spell out a secret as well as any text."""
    found = {value: kind for value, kind in values.items() if value in path}
    return replace_values(path, found)[0] if found else path


def _summarise(files: Sequence[Examined], documents: Sequence[Document]) -> CorpusSummary:
    heldout = sum(one.split == "heldout" for one in documents)
    secrets: Counter[str] = Counter()
    for one in files:
        secrets += one.counts
    return CorpusSummary(
        files_seen=len(files),
        files_kept=len(documents),
        files_train=len(documents) - heldout,
        files_heldout=heldout,
        bytes_kept=sum(len(one.text.encode()) for one in documents),
        dropped=_ordered(Counter(one.line.reason for one in files if one.line.reason)),
        languages=_ordered(Counter(one.language for one in documents)),
        secrets_replaced=_ordered(secrets),
        fingerprint=_fingerprint(documents),
    )


def _ordered(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first, equals by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _fingerprint(documents: Sequence[Document]) -> str:
    """SHA-256 over the stage's version and each document, ordered by path."""
    digest = hashlib.sha256(f"repotune corpus {VERSION}\n".encode())
    for one in documents:
        text = hashlib.sha256(one.text.encode()).hexdigest()
        fact = [one.path, one.language, text, one.cluster, one.split]
        digest.update(json.dumps(fact).encode() + b"\n")
    return digest.hexdigest()


def _top(counts: Counter[str]) -> str:
    return ", ".join(
        f"{count} {reason}" for reason, count in list(_ordered(counts).items())[:_REASONS_SHOWN]
    )


def _phrase(summary: CorpusSummary) -> str:
    parts = [
        f"{summary.files_kept:,} of {summary.files_seen:,} files kept "
        f"({summary.files_train:,} to train on, {summary.files_heldout:,} held out)"
    ]
    if summary.dropped:
        parts.append(f"left out: {_top(Counter(summary.dropped))}")
    if summary.secrets_replaced:
        parts.append(f"{sum(summary.secrets_replaced.values()):,} secrets replaced")
    return "; ".join(parts)
