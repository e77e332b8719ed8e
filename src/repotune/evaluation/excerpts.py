"""Which files are read, how much of each, and how many bytes that is, exactly.

A file is the sequence [BOS, if the tokenizer has one] + its ids. Without a BOS nothing predicts
the first token: it is context, and its bytes are not counted. No EOS is scored, since it stands
for no byte of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from repotune.records import Document, IntArray
from repotune.tokens import CodeTokenizer

PARTS_OF_THE_BUDGET = 10
"""One file gets at most this part of a limited budget, so that a huge one cannot take it all."""

_ORDER = 1
"""Keeps this draw apart from others of the same seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """What is scored of one file: its beginning, or all of it."""

    path: str
    sequence: IntArray
    """[n + 1] ids; each is predicted from those before it."""
    first_scored: int
    """The ids before this one are context."""
    bytes_scored: int
    """UTF-8 bytes that the scored ids stand for."""

    @property
    def tokens(self) -> int:
        """Ids that are scored."""
        return len(self.sequence) - self.first_scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was chosen from all files."""

    excerpts: tuple[Excerpt, ...]
    not_exact: int
    """Files left out because the tokenizer does not give them back byte for byte."""
    cap: int | None
    """Ids read of one file at most; None: everything is read."""


def choose_excerpts(
    documents: Sequence[Document],
    tokenizer: CodeTokenizer,
    *,
    max_seq_length: int,
    max_tokens: int | None,
    seed: int,
) -> Reading:
    """Excerpts of at most ``max_tokens`` ids in total, from files in an order drawn by ``seed``.

    Of one file at most a tenth of the budget is read, or one window of ``max_seq_length``. A file
    without anything to score (it is empty, or one token long) gives none. An excerpt may end inside
    a character: its bytes are counted token by token.
    """
    by_path = sorted(documents, key=lambda document: document.path)
    if max_tokens is None:
        found, not_exact = _read(by_path, tokenizer, cap=None, budget=None)
        return Reading(excerpts=found, not_exact=not_exact, cap=None)
    cap = min(max_tokens, max(max_tokens // PARTS_OF_THE_BUDGET, max_seq_length))
    order = np.random.default_rng((seed, _ORDER)).permutation(len(by_path))
    drawn = (by_path[index] for index in order)
    found, not_exact = _read(drawn, tokenizer, cap=cap, budget=max_tokens)
    return Reading(excerpts=found, not_exact=not_exact, cap=cap)


def _read(
    documents: Iterable[Document], tokenizer: CodeTokenizer, *, cap: int | None, budget: int | None
) -> tuple[tuple[Excerpt, ...], int]:
    found: list[Excerpt] = []
    used = not_exact = 0
    for document in documents:
        if budget is not None and used >= budget:
            break
        ids = tokenizer.encode(document.text)
        if tokenizer.bytes_of(ids.tolist()) != document.text.encode():
            not_exact += 1
            continue
        room = len(ids) if cap is None or budget is None else min(cap, budget - used)
        used += min(room, len(ids))
        excerpt = _excerpt(document.path, ids[:room], tokenizer)
        if excerpt is not None:
            found.append(excerpt)
    return tuple(found), not_exact


def _excerpt(path: str, ids: IntArray, tokenizer: CodeTokenizer) -> Excerpt | None:
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    context = 0 if bos else 1
    numbers = ids.tolist()
    bytes_scored = len(tokenizer.bytes_of(numbers)) - len(tokenizer.bytes_of(numbers[:context]))
    if not bytes_scored:
        return None
    return Excerpt(
        path=path,
        sequence=np.array([*bos, *numbers], np.int32),
        first_scored=len(bos) + context,
        bytes_scored=bytes_scored,
    )
