"""Documents into pieces of ids that fit a row, some of them as prefix, suffix, middle.

    text            [BOS] ids ... EOS           EOS only after the last piece of a document
    fill in middle  [BOS] PRE ... MID ... END   one piece's text, cut in three (see ``fim``)

A document that is longer than a row becomes several pieces, cut between characters; each begins
with BOS if the model has one, so that every piece looks like what the model was trained on. A
piece is rewritten as prefix, suffix, middle by itself, so no middle is torn from its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np

from repotune.records import Document, IntArray
from repotune.tokens.cuts import choose_middle
from repotune.tokens.fim import FimFormat
from repotune.tokens.tokenizer import CodeTokenizer

MIN_TAIL: Final = 8
"""Tokens that are left for the last piece at least, where rows are long enough: it has to teach
what stands before the end."""
FIM_ROOM: Final = 5
"""Tokens that cutting a text in three may add, since three texts merge less than one. A piece
that grows by more stays as it is; on the standard library that is about one in 1,000."""
SHORTEST: Final = 64
"""Tokens of a text with a gap, for a model that has everything to learn about gaps."""
MIN_FIM_TOKENS: Final = 16
"""Rows that are too short for this much text beside the four tokens have no fill in the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of one document, ready to stand in a row."""

    path: str
    place: int
    """Among the document's pieces."""
    ids: IntArray
    """[tokens], with the special ids around and between."""
    source_tokens: int
    """How many of the document's own tokens this piece stands for."""
    fim: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The pieces of some documents, and the documents that have none."""

    pieces: list[Piece]
    set_aside: dict[str, str]
    """Path -> reason."""
    tokens: int
    """Of all documents, those set aside included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """A stretch of a document's ids, and how it is to be written."""

    path: str
    place: int
    ids: IntArray
    last: bool
    text: str
    """Empty unless ``middle`` is set."""
    middle: tuple[int, int] | None
    """In characters of ``text``; None: left to right."""
    suffix_first: bool


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts documents for rows of one length; what becomes of one depends on no other."""

    tokenizer: CodeTokenizer
    max_seq_length: int
    fim_rate: float
    seed: int

    def cut(self, documents: Sequence[Document]) -> Cut:
        """All pieces of ``documents``; the text is encoded on all cores."""
        set_aside: dict[str, str] = {}
        spans: list[_Span] = []
        tokens = 0
        encoded = self.tokenizer.encode_lists(document.text for document in documents)
        for document, ids in zip(documents, encoded, strict=True):
            tokens += len(ids)
            reason = self.tokenizer.why_not_exact(document.text, ids)
            if reason is None:
                spans.extend(self._spans(document, np.array(ids, np.int32)))
            else:
                set_aside[document.path] = reason
        return Cut(pieces=self._pieces(spans), set_aside=set_aside, tokens=tokens)

    def _bos(self) -> list[int]:
        return [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]

    def _room(self) -> tuple[int, int]:
        """How many of a document's tokens fit into a piece: left to right without EOS, and as
        prefix, suffix, middle (0 if the model or the row does not allow it)."""
        text = self.max_seq_length - len(self._bos())
        fim = text - 4 - FIM_ROOM
        return text, (0 if self.tokenizer.fim is None or fim < MIN_FIM_TOKENS else fim)

    def _spans(self, document: Document, ids: IntArray) -> Iterator[_Span]:
        # Hung on the document's content: its order among others and the batch decide nothing.
        random = Random(f"{self.seed} {document.sha256}")
        text_room, fim_room = self._room()
        tail = min(MIN_TAIL, self.max_seq_length // 4)
        data = document.text.encode("utf-8")
        offsets = self.tokenizer.byte_offsets(ids)
        fim = self.tokenizer.fim
        start = place = 0
        while start < len(ids):
            as_fim = bool(fim_room) and random.random() < self.fim_rate
            left = len(ids) - start
            room = fim_room if as_fim else text_room
            if as_fim and fim is not None and fim.taught:
                room = _short(fim_room, random)
            if left + (not as_fim) <= room:
                stop = len(ids)
            else:
                stop = _character_start(data, offsets, start + min(room, left - tail))
            text = data[offsets[start] : offsets[stop]].decode("utf-8") if as_fim else ""
            yield _Span(
                path=document.path,
                place=place,
                ids=ids[start:stop],
                last=stop == len(ids),
                text=text,
                middle=choose_middle(text, random) if as_fim else None,
                suffix_first=as_fim
                and fim is not None
                and fim.spm != "never"
                and random.random() < 0.5,
            )
            start, place = stop, place + 1

    def _pieces(self, spans: Sequence[_Span]) -> list[Piece]:
        cut = [span for span in spans if span.middle is not None]
        rewritten = iter(self._rewrite(cut))
        bos, eos = np.array(self._bos(), np.int32), np.array([self.tokenizer.eos_id], np.int32)
        pieces = []
        for span in spans:
            rewrite = next(rewritten) if span.middle is not None else None
            fim = rewrite is not None
            if rewrite is None:
                ids = np.concatenate([bos, span.ids, eos if span.last else eos[:0]])
            else:
                ids = np.array(rewrite, np.int32)
            pieces.append(
                Piece(
                    path=span.path,
                    place=span.place,
                    ids=ids,
                    source_tokens=len(span.ids),
                    fim=fim,
                )
            )
        return pieces

    def _rewrite(self, spans: Sequence[_Span]) -> Iterator[list[int] | None]:
        """Each span as prefix, suffix, middle; None if that is too long or not byte-exact."""
        fim, tokenizer = self.tokenizer.fim, self.tokenizer
        if fim is None:
            return
        heads: list[str] = []
        rests: list[str] = []
        for span in spans:
            prefix, middle, suffix = _three(span)
            joined = span.suffix_first and fim.spm == "joined"
            heads.append(prefix + middle if joined else prefix)
            rests.extend(("" if joined else middle, suffix))
        head_ids = tokenizer.encode_lists(heads)
        rest_ids = tokenizer.encode_lists(rests, continuation=True)
        for number, (span, head) in enumerate(zip(spans, head_ids, strict=True)):
            middle_ids, suffix_ids = rest_ids[2 * number : 2 * number + 2]
            ids = self._assemble(fim, span, head, middle_ids, suffix_ids)
            exact = (
                tokenizer.bytes_of(head) == heads[number].encode("utf-8")
                and tokenizer.bytes_of([*middle_ids, *suffix_ids], continuation=True)
                == "".join(rests[2 * number : 2 * number + 2]).encode("utf-8")
            )  # fmt: skip
            yield ids if exact and len(ids) <= self.max_seq_length else None

    def _assemble(
        self,
        fim: FimFormat,
        span: _Span,
        head: Sequence[int],
        middle: Sequence[int],
        suffix: Sequence[int],
    ) -> list[int]:
        if span.suffix_first:
            return fim.spm_document(self._bos(), suffix, [*head, *middle])
        return fim.psm(self._bos(), head, suffix, middle)


def _short(room: int, random: Random) -> int:
    """``SHORTEST`` to ``room`` tokens, half as often twice as long: as many tokens of each length.

    What a gap teaches are its few tokens and its end: short texts have more of them.
    """
    shortest = min(SHORTEST, room)
    return int(shortest / (1 - random.random() * (1 - shortest / room)))


def _three(span: _Span) -> tuple[str, str, str]:
    assert span.middle is not None
    start, end = span.middle
    return span.text[:start], span.text[start:end], span.text[end:]


def _character_start(data: bytes, offsets: IntArray, stop: int) -> int:
    """``stop``, or the nearest token before it that begins a character (UTF-8 goes on in bytes
    of the form 10xxxxxx)."""
    while data[offsets[stop]] & 0xC0 == 0x80:
        stop -= 1
    return stop
