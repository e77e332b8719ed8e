"""A model's tokenizer as the files that ``transformers`` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from repotune.errors import TokenizerError
from repotune.gguf_file import open_gguf
from repotune.tokens.gguf_metadata import CHAT_TEMPLATE
from repotune.tokens.hf_vocabulary import TOKENIZER, TOKENIZER_CONFIG
from repotune.tokens.read import read_vocabulary
from repotune.tokens.vocabulary import SPACE, Vocabulary, make_safe

COPIED: Final = (
    TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""What tokenizers have in Hugging Face layout; never code."""
GENERIC_CLASS: Final = "PreTrainedTokenizerFast"
"""The class of transformers that is nothing but its ``tokenizer.json``."""


def hf_files(path: Path, *, add_fim: bool = False) -> dict[str, bytes]:
    """Name -> content of the tokenizer's files for the base model at ``path``.

    Those of a folder are taken as they are, but for tokens that ``add_fim`` adds; for a GGUF file
    they are written anew. Raises TokenizerError if they are missing or damaged.
    """
    vocabulary = read_vocabulary(path, add_fim=add_fim)
    if path.is_dir():
        try:
            files = {name: (path / name).read_bytes() for name in COPIED if (path / name).is_file()}
        except OSError as error:
            raise TokenizerError(f"{error.filename} cannot be read: {error.strerror}.") from None
        if vocabulary.added:
            files[TOKENIZER] = _with_added(files[TOKENIZER], vocabulary)
        return files
    template = open_gguf(path).metadata.get(CHAT_TEMPLATE)
    written = {
        TOKENIZER: _definition(vocabulary),
        TOKENIZER_CONFIG: _settings(vocabulary, template),
    }
    return {
        name: json.dumps(content, ensure_ascii=False).encode() for name, content in written.items()
    }


def _with_added(definition: bytes, vocabulary: Vocabulary) -> bytes:
    """A folder's ``tokenizer.json`` with the tokens that the model was taught."""
    content = json.loads(definition)
    # Tokens of these ids or beyond are ones that the model has no rows for.
    known = [one for one in content.get("added_tokens") or () if one["id"] < min(vocabulary.added)]
    taught = [
        _special(token, number)
        for token, number in vocabulary.special.items()
        if number in vocabulary.added
    ]
    content["model"]["vocab"] |= {one["content"]: one["id"] for one in taught}
    content["added_tokens"] = [*known, *taught]
    return json.dumps(content, ensure_ascii=False).encode()


def _special(token: str, number: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **flags, "special": True}


def _definition(vocabulary: Vocabulary) -> dict[str, Any]:
    """``tokenizer.json``, special tokens and all."""
    safe = make_safe(vocabulary)
    names = _names(vocabulary)
    bos = None if vocabulary.bos_id is None else names[vocabulary.bos_id]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _special(token, number)
            for token, number in sorted(vocabulary.special.items(), key=lambda item: item[1])
        ],
        "normalizer": vocabulary.normalizer,
        "pre_tokenizer": vocabulary.pre_tokenizer,
        "post_processor": None if bos is None else _bos_first(bos, vocabulary.bos_id),
        "decoder": _sentencepiece_decoder(safe.dummy_prefix)
        if safe.sentencepiece
        else {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"dropout": None, "unk_token": None, "fuse_unk": False, **vocabulary.model},
    }


def _bos_first(bos: str, number: int | None) -> dict[str, Any]:
    single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }


def _sentencepiece_decoder(dummy_prefix: bool) -> dict[str, Any]:
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *([strip] if dummy_prefix else []),
        ],
    }


def _settings(vocabulary: Vocabulary, template: object) -> dict[str, Any]:
    names = _names(vocabulary)
    return {
        "tokenizer_class": GENERIC_CLASS,
        "add_bos_token": vocabulary.bos_id is not None,
        "bos_token": None if vocabulary.bos_id is None else names[vocabulary.bos_id],
        "eos_token": names[vocabulary.eos_id],
        "clean_up_tokenization_spaces": False,
        **({"chat_template": template} if isinstance(template, str) else {}),
    }


def _names(vocabulary: Vocabulary) -> dict[int, str]:
    return {number: token for token, number in vocabulary.model["vocab"].items()}
