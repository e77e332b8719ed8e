"""The vocabulary inside a GGUF file, as the parts of a ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from repotune.errors import TokenizerError
from repotune.gguf_file import open_gguf
from repotune.tokens.fim import fim_tokens_in
from repotune.tokens.vocabulary import BYTE_PIECE, SPACE, Vocabulary

NORMAL, BYTE = 1, 6
"""``tokenizer.ggml.token_type``; 2 to 5 are unknown, control, user-defined and unused."""

GPT2_SPLIT: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TIKTOKEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    "gpt-2": (GPT2_SPLIT,),
    "smollm": (r"\p{N}", GPT2_SPLIT),
    "starcoder": (r"\p{N}", GPT2_SPLIT),
    "refact": (r"\p{N}", GPT2_SPLIT),
    "qwen2": (_TIKTOKEN % "",),
    "llama-bpe": (_TIKTOKEN % "{1,3}",),
    "deepseek-coder": (
        r"[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}",
    ),
    # What llama.cpp falls back to when the converter did not know the tokenizer.
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
"""``tokenizer.ggml.pre`` -> where text is split before BPE, one regular expression after another,
as in the models' ``tokenizer.json`` and in llama.cpp's table of pre-tokenizers."""
WHOLE_WORDS: Final = ("llama-bpe",)
"""Here a word that the vocabulary has is taken whole, whatever the merges say."""


def read_gguf_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of the GGUF file ``path``.

    Raises ModelError if the file is damaged, TokenizerError if its vocabulary is missing,
    incomplete or of a kind that is not known.
    """
    metadata = open_gguf(path).metadata
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _list(path, metadata, "tokens", None)
    types = _list(path, metadata, "token_type", len(tokens))
    ids = {token: number for number, token in enumerate(tokens)}
    special = {
        token: number
        for number, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ not in (NORMAL, BYTE)
    }
    special |= {token: ids[token] for token in fim_tokens_in(ids)}
    if kind == "gpt2":
        parts = _byte_level(path, metadata, ids)
    elif kind == "llama":
        scores = _list(path, metadata, "scores", len(tokens))
        parts = _sentencepiece(ids, special, scores, metadata)
    else:
        raise TokenizerError(
            f"{path} has a tokenizer of the kind {kind!r}, and only 'gpt2' and 'llama' can be "
            "read: use another model."
        )
    model, normalizer, pre_tokenizer = parts
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")
    return Vocabulary(
        source=str(path),
        model=model,
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizer,
        special=special,
        bos_id=_id(path, metadata, "bos", len(tokens)) if adds_bos else None,
        eos_id=_id(path, metadata, "eos", len(tokens)),
    )


_Part = dict[str, Any] | None


def _byte_level(
    path: Path, metadata: Mapping[str, Any], ids: Mapping[str, int]
) -> tuple[dict[str, Any], _Part, _Part]:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in SPLITS:
        raise TokenizerError(
            f"{path} splits text in the way {name!r}, which is not known here (known: "
            f"{', '.join(SPLITS)}): use another model, or the same one as safetensors."
        )
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        for regex in SPLITS[name]
    ]
    to_bytes = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    model = {
        "type": "BPE",
        "vocab": ids,
        "merges": _list(path, metadata, "merges", None),
        "ignore_merges": name in WHOLE_WORDS,
    }
    return model, None, {"type": "Sequence", "pretokenizers": [*splits, to_bytes]}


def _sentencepiece(
    ids: Mapping[str, int],
    special: Mapping[str, int],
    scores: Sequence[float],
    metadata: Mapping[str, Any],
) -> tuple[dict[str, Any], _Part, _Part]:
    """SentencePiece merges the neighbours whose piece has the best score; so the merges are all
    ways to put a piece together, best score first."""
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, number in ids.items():
        if piece in special or BYTE_PIECE.fullmatch(piece):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                merges.append((-scores[number], ids[left], ids[right], left, right))
    merges.sort()
    model = {
        "type": "BPE",
        "vocab": ids,
        "merges": [merge[3:] for merge in merges],
        "byte_fallback": True,
    }
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not metadata.get("tokenizer.ggml.add_space_prefix", True):
        return model, replace, None
    prepend = {"type": "Prepend", "prepend": SPACE}
    return model, {"type": "Sequence", "normalizers": [prepend, replace]}, None


def _list(path: Path, metadata: Mapping[str, Any], key: str, length: int | None) -> list[Any]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or not value or (length and len(value) != length):
        found = len(value) if isinstance(value, list) else "no"
        wanted = f"{length} are needed" if length else "they are needed"
        raise TokenizerError(
            f"{path} has {found} tokenizer.ggml.{key}, and {wanted}: use a GGUF file that carries "
            "its tokenizer."
        )
    return value


def _id(path: Path, metadata: Mapping[str, Any], which: str, size: int) -> int:
    value = metadata.get(f"tokenizer.ggml.{which}_token_id")
    if not isinstance(value, int) or not 0 <= value < size:
        raise TokenizerError(
            f"{path} names {value} as its {which} token, not one of its {size} tokens: use a GGUF "
            "file that carries its tokenizer."
        )
    return value
