"""Text to ids and back, byte for byte; the only file that knows the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers

from repotune.errors import TokenizerError
from repotune.records import IntArray
from repotune.tokens.fim import FimFormat, find_fim
from repotune.tokens.read import read_vocabulary
from repotune.tokens.vocabulary import END_OF_TEXT, SPACE, Vocabulary, make_safe

_PROBE: Final = "\x00\t\r\n é 한글 e\u0301 🙂 a  b\n    def f(x):\n\treturn x != 0x1F  # …\n\n"
"""What a byte-exact tokenizer gives back, whatever it was trained on."""


class CodeTokenizer:
    """The tokenizer of a model, in which no text becomes a special id."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises TokenizerError if it cannot give text back byte for byte."""
        safe = make_safe(vocabulary)
        try:
            self._library = tokenizers.Tokenizer.from_str(safe.definition)
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(
                f"{vocabulary.source} is damaged ({error}): download the model again."
            ) from None
        self._piece_bytes = [piece or b"" for piece in safe.pieces]
        self._piece_lengths = np.array([len(piece) for piece in self._piece_bytes], np.int32)
        self._sentencepiece, self._dummy_prefix = safe.sentencepiece, safe.dummy_prefix
        self._source = vocabulary.source
        self.vocab_size = len(safe.pieces)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.special_ids = vocabulary.special_ids
        self.added_ids = vocabulary.added
        """Of tokens that the model has to be taught; they are neighbours, behind all others."""
        self.fim: FimFormat | None = find_fim(vocabulary.special, self.eos_id)
        self.fingerprint = safe.fingerprint
        ends = {self.eos_id}
        if self.fim is not None:
            ends.add(self.fim.end_id)
        if END_OF_TEXT in vocabulary.special:
            ends.add(vocabulary.special[END_OF_TEXT])
        self.stop_ids = frozenset(ends)
        """The ids that end what a model generates."""
        self._probe(vocabulary.special)

    def encode(self, text: str) -> IntArray:
        """[tokens] ids of ``text`` alone: no BOS, no EOS, no special id whatever it says."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[IntArray]:
        """``encode`` of each, on all cores."""
        return [np.array(ids, np.int64) for ids in self.encode_lists(texts)]

    def encode_continuation(self, text: str) -> IntArray:
        """[tokens] ids of ``text`` where other ids stand before it: without the space that
        SentencePiece imagines before a text."""
        return np.array(self.encode_lists([text], continuation=True)[0], np.int64)

    def encode_lists(self, texts: Iterable[str], *, continuation: bool = False) -> list[list[int]]:
        """``encode`` or ``encode_continuation`` of each, as lists; on all cores."""
        if self._dummy_prefix and not continuation:
            texts = [f" {text}" if text else "" for text in texts]
        encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int] | IntArray, *, continuation: bool = False) -> str:
        """The text behind ``ids``, special ids left out, incomplete UTF-8 as U+FFFD.

        The inverse of ``encode``, or of ``encode_continuation`` (what a model wrote, for
        instance), which keeps a space in front. Raises TokenizerError for an id that the
        vocabulary does not have.
        """
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids
        try:
            data = self.bytes_of(numbers, continuation=continuation)
        except IndexError:
            raise TokenizerError(
                f"Token {max(numbers)} is not in the vocabulary of {self._source}, which has "
                f"{self.vocab_size}: the model and its tokenizer do not belong together."
            ) from None
        return data.decode("utf-8", errors="replace")

    def bytes_of(self, ids: Iterable[int], *, continuation: bool = False) -> bytes:
        """The bytes behind ``ids``, as ``decode``."""
        data = b"".join(map(self._piece_bytes.__getitem__, ids))
        return data[1:] if self._dummy_prefix and not continuation and data[:1] == b" " else data

    def byte_offsets(self, ids: IntArray) -> IntArray:
        """[tokens + 1] where in the text each token of a whole encoded text begins and ends."""
        ends = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(self._piece_lengths[ids], out=ends[1:])
        return np.maximum(ends - 1, 0) if self._dummy_prefix else ends

    def why_not_exact(self, text: str, ids: Sequence[int]) -> str | None:
        """Why ``ids``, the result of ``encode(text)``, do not give ``text`` back; None if they do.

        Special ids have no bytes, so this also proves that none came out.
        """
        if self.bytes_of(ids) == text.encode("utf-8"):
            return None
        if self._sentencepiece and SPACE in text:
            return "holds U+2581, which this model's tokenizer turns into a space"
        return "this model's tokenizer does not give it back byte for byte"

    def _probe(self, special: Iterable[str]) -> None:
        text = _PROBE + " ".join(special)
        if self._sentencepiece:
            text = text.replace(SPACE, "")
        ids = self.encode_lists([text])[0]
        if self.special_ids & set(ids):
            raise TokenizerError(
                f"{self._source} turns text into special tokens: use another model."
            )
        if self.why_not_exact(text, ids) is not None:
            raise TokenizerError(
                f"{self._source} does not give text back byte for byte: use another model."
            )


def load_tokenizer(path: Path, *, add_fim: bool = False) -> CodeTokenizer:
    """The tokenizer of the model at ``path``, a GGUF file or a folder in Hugging Face layout.

    With ``add_fim`` one without tokens for fill in the middle gets four. Raises TokenizerError if
    it is missing, damaged or not byte-exact, ModelError if a GGUF file is damaged.
    """
    return CodeTokenizer(read_vocabulary(path, add_fim=add_fim))


def token_names(path: Path, *, add_fim: bool = False) -> dict[int, str]:
    """Id -> how the tokenizer's file of the model at ``path`` writes the token.

    ``add_fim`` and errors as in ``load_tokenizer``.
    """
    vocabulary = read_vocabulary(path, add_fim=add_fim)
    names = {**vocabulary.model["vocab"], **vocabulary.special}
    return {number: token for token, number in names.items()}
