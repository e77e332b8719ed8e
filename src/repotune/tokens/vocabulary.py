"""A vocabulary as its file describes it, made safe: no text can become a special id.

Both formats (``gguf_vocabulary``, ``hf_vocabulary``) arrive here as the parts of a
``tokenizer.json``. What is special is taken out of the BPE model altogether, with every merge
that leads to it; an id that the model does not have cannot come out of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from repotune.errors import TokenizerError

SPACE: Final = "\u2581"
"""SentencePiece writes a space as this character."""
BYTE_PIECE: Final = re.compile(r"<0x([0-9A-F]{2})>")
"""SentencePiece's piece for one byte, for what it has no other piece for."""
MAX_TOKENS: Final = 1 << 22
"""Far more than any vocabulary has; a damaged file may claim any number."""
END_OF_TEXT: Final = "<|endoftext|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a tokenizer's file says, before it is made safe."""

    source: str
    """The file, for messages."""
    model: Mapping[str, Any]
    """The ``model`` of a ``tokenizer.json``: a BPE with ``vocab`` and ``merges``."""
    normalizer: Mapping[str, Any] | None
    pre_tokenizer: Mapping[str, Any] | None
    special: Mapping[str, int]
    """Every token that stands for something else than its text -> id."""
    bos_id: int | None
    """None if no document begins with one."""
    eos_id: int
    added: tuple[int, ...] = ()
    """The ids of special tokens that the file does not have, and the model is to be taught."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Also BOS and EOS that the file lists among the plain tokens."""
        ends = {self.eos_id} if self.bos_id is None else {self.bos_id, self.eos_id}
        return frozenset(self.special.values()) | ends


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeVocabulary:
    """A BPE in which special tokens do not exist, and what each id stands for."""

    definition: str
    """JSON of a ``tokenizer.json`` without added tokens, post-processor and dummy prefix."""
    pieces: tuple[bytes | None, ...]
    """Id -> the bytes it stands for; None for special and unused ids."""
    sentencepiece: bool
    """Whether U+2581 stands for a space, so that the text cannot hold one."""
    dummy_prefix: bool
    """Whether a text is encoded as if a space stood before it (SentencePiece)."""
    fingerprint: str


def make_safe(vocabulary: Vocabulary) -> SafeVocabulary:
    """Take the special tokens out of the model, and find the bytes behind every other id.

    Raises TokenizerError if the tokenizer is of a kind that cannot give text back byte for byte.
    """
    model = _without_special(vocabulary)
    normalizer, prepends = _byte_exact_normalizer(vocabulary)
    pre_tokenizer, prefixes = _without_prefix(vocabulary.pre_tokenizer)
    if _is_byte_level(pre_tokenizer):
        bytes_of, dummy_prefix = _byte_level_bytes, False
    elif model["byte_fallback"]:
        bytes_of, dummy_prefix = _sentencepiece_bytes, prepends or prefixes
    else:
        raise TokenizerError(
            f"{vocabulary.source} is neither byte-level nor has it byte fallback, so it cannot "
            "give every file back byte for byte: use another model."
        )
    size = 1 + max(*model["vocab"].values(), *vocabulary.special_ids)
    pieces: list[bytes | None] = [None] * size
    for token, number in model["vocab"].items():
        pieces[number] = bytes_of(token)
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    facts = (
        sorted(vocabulary.special.items()),
        vocabulary.bos_id,
        vocabulary.eos_id,
        dummy_prefix,
    )
    return SafeVocabulary(
        definition=text,
        pieces=tuple(pieces),
        sentencepiece=bytes_of is _sentencepiece_bytes,
        dummy_prefix=dummy_prefix,
        fingerprint=hashlib.sha256(f"{text}\n{json.dumps(facts)}".encode()).hexdigest(),
    )


def _without_special(vocabulary: Vocabulary) -> dict[str, Any]:
    """The BPE model without special tokens, and without merges that need or make one.

    Where bytes have pieces of their own, ``<0x0A>`` is special in the same way: the text
    "<0x0A>" must not merge into the piece of a line end.
    """
    model = vocabulary.model
    if (
        model.get("type") != "BPE"
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
    ):
        raise TokenizerError(
            f"{vocabulary.source} is not a plain BPE tokenizer, the only kind that can be read: "
            "use another model."
        )
    special_ids = vocabulary.special_ids
    try:
        vocab = {
            str(token): int(number)
            for token, number in model["vocab"].items()
            if token not in vocabulary.special and number not in special_ids
        }
        byte_fallback = bool(model.get("byte_fallback"))
        merges = [
            (left, right)
            for left, right in map(pair_of, model["merges"])
            if left in vocab
            and right in vocab
            and left + right in vocab
            and not (byte_fallback and any(map(BYTE_PIECE.fullmatch, (left, right, left + right))))
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TokenizerError(
            f"The vocabulary of {vocabulary.source} is damaged: download the model again."
        ) from None
    numbers = {*vocab.values(), *special_ids}
    if not vocab or min(numbers) < 0 or max(numbers) >= MAX_TOKENS:
        raise TokenizerError(
            f"The vocabulary of {vocabulary.source} is empty or has impossible ids: download the "
            "model again."
        )
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": byte_fallback,
        "ignore_merges": bool(model.get("ignore_merges")),
        "vocab": vocab,
        "merges": merges,
    }


def pair_of(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge as a pair; older files write it as one text with a space between."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _byte_exact_normalizer(vocabulary: Vocabulary) -> tuple[dict[str, Any] | None, bool]:
    """What of the normalizer keeps the bytes, and whether it puts a space before the text.

    Unicode normalisation (NFC, Qwen) is left out: it changes nothing in most files, and the
    others would not come back as they were.
    """
    kept: list[Mapping[str, Any]] = []
    prepends = False
    for step in _steps(vocabulary.normalizer, "normalizers"):
        match step:
            case {"type": "NFC"}:
                pass
            case {"type": "Prepend", "prepend": prepend} if prepend == SPACE:
                prepends = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": content} if (
                content == SPACE
            ):
                kept.append(step)
            case _:
                raise TokenizerError(
                    f"{vocabulary.source} changes text before it encodes it "
                    f"({step.get('type')}), so files would not come back byte for byte: use "
                    "another model."
                )
    return ({"type": "Sequence", "normalizers": kept} if kept else None), prepends


def _without_prefix(pre_tokenizer: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, bool]:
    """The pre-tokenizer without the space it puts before a text, and whether it put one."""
    steps: list[dict[str, Any]] = []
    prefixes = False
    for step in _steps(pre_tokenizer, "pretokenizers"):
        match step:
            case {"type": "Metaspace"}:
                scheme = step.get("prepend_scheme", "always")
                prefixes = prefixes or (
                    scheme != "never" and step.get("add_prefix_space") is not False
                )
                steps.append(
                    {
                        "type": "Metaspace",
                        "replacement": step.get("replacement", SPACE),
                        "prepend_scheme": "never",
                        "split": step.get("split", True),
                    }
                )
            case {"type": "ByteLevel"}:
                steps.append({**step, "add_prefix_space": False})
            case _:
                steps.append(dict(step))
    return ({"type": "Sequence", "pretokenizers": steps} if steps else None), prefixes


def _steps(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [step for inner in part[key] for step in _steps(inner, key)]


def _is_byte_level(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(pre_tokenizer, "pretokenizers"))


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's table: printable bytes are themselves, the others are moved up from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + place): byte for place, byte in enumerate(others)},
    }


_ALPHABET: Final = _byte_level_alphabet()


def _byte_level_bytes(token: str) -> bytes | None:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return None  # not made of the alphabet, so no text leads to it


def _sentencepiece_bytes(token: str) -> bytes | None:
    byte = BYTE_PIECE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode("utf-8")
