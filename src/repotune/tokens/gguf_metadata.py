"""A model's tokenizer as llama.cpp wants it in a GGUF file: ``tokenizer.*``, and how it splits.

The inverse of ``gguf_vocabulary``. The keys are those of llama.cpp's ``llama-arch.cpp``, what they
mean stands in its ``llama-vocab.cpp``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from repotune.errors import ExportError, TokenizerError
from repotune.gguf_file import open_gguf
from repotune.tokens.fim import fim_tokens_in, find_fim
from repotune.tokens.gguf_vocabulary import (
    GPT2_SPLIT,
    NORMAL,
    SPLITS,
    WHOLE_WORDS,
)
from repotune.tokens.hf_vocabulary import TOKENIZER, TOKENIZER_CONFIG
from repotune.tokens.read import read_vocabulary
from repotune.tokens.vocabulary import BYTE_PIECE, Vocabulary, make_safe, pair_of

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""``tokenizer.ggml.token_type``; 1 is ``NORMAL``."""
LOOKS_SPECIAL: Final = re.compile(r"<[|｜].*[|｜]>|<unk>|<s>|</s>|<(start|end)_of_turn>", re.DOTALL)
"""Names that llama.cpp's converter takes for control tokens whatever the tokenizer says."""
CHAT_TEMPLATE: Final = "tokenizer.chat_template"


def gguf_metadata(path: Path, vocab_size: int, *, add_fim: bool = False) -> dict[str, Any]:
    """``tokenizer.*`` of a GGUF file with ``vocab_size`` rows of embeddings.

    ``path`` is the base model: a folder in Hugging Face layout, or a GGUF file, whose own keys are
    taken over. ``add_fim`` and TokenizerError are as in ``load_tokenizer``; raises ExportError if
    llama.cpp has no way to split text as this tokenizer does.
    """
    vocabulary = read_vocabulary(path, add_fim=add_fim)
    if path.is_dir():
        values = _from_folder(path, vocabulary, vocab_size)
    else:
        own = open_gguf(path).metadata
        values = {key: value for key, value in own.items() if key.startswith("tokenizer.")}
        values |= _longer_lists(values, vocabulary, vocab_size)
    return {**values, **_fim(vocabulary, values)}


def _longer_lists(
    values: Mapping[str, Any], vocabulary: Vocabulary, vocab_size: int
) -> dict[str, Any]:
    """A GGUF file's own lists, with what its embedding has got in rows."""
    tokens = values["tokenizer.ggml.tokens"]
    more = _tokens(vocabulary, vocab_size)[len(tokens) :]
    kinds = [CONTROL if token in vocabulary.special else UNUSED for token in more]
    lists: dict[str, list[Any]] = {"tokens": more, "token_type": kinds}
    scores = values.get("tokenizer.ggml.scores")
    if scores is not None:
        lists["scores"] = [min(scores)] * len(more)
    return {
        f"tokenizer.ggml.{key}": [*values[f"tokenizer.ggml.{key}"], *longer]
        for key, longer in lists.items()
    }


def _fim(vocabulary: Vocabulary, values: Mapping[str, Any]) -> dict[str, Any]:
    """Ids for fill in the middle, under llama.cpp's present names and those it had before."""
    fim = find_fim(vocabulary.special, vocabulary.eos_id)
    if fim is None:
        return {}
    ids = {
        "fim_pre": fim.prefix_id, "fim_suf": fim.suffix_id, "fim_mid": fim.middle_id,
        "prefix": fim.prefix_id, "suffix": fim.suffix_id, "middle": fim.middle_id,
        "eot": fim.end_id,
    }  # fmt: skip
    names: dict[str, Any] = {f"tokenizer.ggml.{key}_token_id": value for key, value in ids.items()}
    types = list(values["tokenizer.ggml.token_type"])
    for number in fim.ids:
        types[number] = CONTROL
    names["tokenizer.ggml.token_type"] = types
    if values["tokenizer.ggml.model"] == "llama":
        # llama.cpp would put SentencePiece's imagined space before the suffix too, right behind
        # the cursor, where training had none; so none is put anywhere.
        names["tokenizer.ggml.add_space_prefix"] = False
    return names


def _from_folder(folder: Path, vocabulary: Vocabulary, vocab_size: int) -> dict[str, Any]:
    safe = make_safe(vocabulary)
    tokens = _tokens(vocabulary, vocab_size)
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if safe.sentencepiece else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": _types(folder, vocabulary, tokens, safe.sentencepiece),
        # llama.cpp would take token 11 of a byte-level vocabulary that names none.
        "tokenizer.ggml.bos_token_id": (
            vocabulary.eos_id if vocabulary.bos_id is None else vocabulary.bos_id
        ),
        "tokenizer.ggml.eos_token_id": vocabulary.eos_id,
        "tokenizer.ggml.add_bos_token": vocabulary.bos_id is not None,
        "tokenizer.ggml.add_eos_token": False,
    }
    if safe.sentencepiece:
        values["tokenizer.ggml.pre"] = "default"
        values["tokenizer.ggml.scores"] = _scores(vocabulary, tokens)
        values["tokenizer.ggml.add_space_prefix"] = safe.dummy_prefix
    else:
        values["tokenizer.ggml.pre"] = _splitting(vocabulary)
        values["tokenizer.ggml.merges"] = [" ".join(pair) for pair in _merges(vocabulary)]
    template = _chat_template(folder)
    return {**values, CHAT_TEMPLATE: template} if template else values


def _tokens(vocabulary: Vocabulary, vocab_size: int) -> list[str]:
    """Id -> token; rows of the embedding beyond the vocabulary have names of their own."""
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    for token, number in {**vocabulary.model["vocab"], **vocabulary.special}.items():
        if number < vocab_size:
            tokens[number] = token
    return tokens


def _types(
    folder: Path, vocabulary: Vocabulary, tokens: list[str], sentencepiece: bool
) -> list[int]:
    known = {**vocabulary.model["vocab"], **vocabulary.special}
    unknown = vocabulary.model.get("unk_token") if sentencepiece else None
    plain = _shown_tokens(folder) - set(fim_tokens_in(known))

    def kind(token: str) -> int:
        if token not in known:
            return UNUSED
        if token == unknown:
            return UNKNOWN
        if token in vocabulary.special or known[token] in vocabulary.special_ids:
            shown = token in plain and not LOOKS_SPECIAL.fullmatch(token)
            return USER_DEFINED if shown else CONTROL
        return BYTE if sentencepiece and BYTE_PIECE.fullmatch(token) else NORMAL

    return [kind(token) for token in tokens]


def _shown_tokens(folder: Path) -> set[str]:
    """Added tokens that are text for a reader all the same, ``<tool_call>`` for instance."""
    added = json.loads((folder / TOKENIZER).read_text(encoding="utf-8")).get("added_tokens") or ()
    return {one["content"] for one in added if not one.get("special")}


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    return [pair_of(merge) for merge in vocabulary.model["merges"]]


def _scores(vocabulary: Vocabulary, tokens: list[str]) -> list[float]:
    """SentencePiece merges the pair whose piece has the best score: the earlier a piece's first
    merge stands in the list, the better it is. What no merge makes is worse than all others."""
    merges = _merges(vocabulary)
    rank: dict[str, int] = {}
    for place, pair in enumerate(merges):
        rank.setdefault("".join(pair), place)
    worst = len(merges)
    return [-float(rank.get(token, worst)) for token in tokens]


def _splitting(vocabulary: Vocabulary) -> str:
    """llama.cpp's name of how this tokenizer splits text before it merges."""
    patterns = tuple(_patterns(vocabulary.pre_tokenizer))
    whole = bool(vocabulary.model.get("ignore_merges"))
    for name, known in SPLITS.items():
        if patterns == known and whole == (name in WHOLE_WORDS):
            return name
    raise ExportError(
        f"{vocabulary.source} splits text in a way that llama.cpp has no name for here (known: "
        f"{', '.join(SPLITS)}): export to merged instead."
    )


def _patterns(step: Mapping[str, Any] | None) -> list[str]:
    """The regular expressions at which a pre-tokenizer splits, in their order."""
    match step:
        case {"type": "Sequence", "pretokenizers": steps}:
            return [pattern for inner in steps for pattern in _patterns(inner)]
        case {"type": "Split", "pattern": {"Regex": regex}}:
            return [regex]
        case {"type": "Digits", "individual_digits": True}:
            return [r"\p{N}"]
        case {"type": "ByteLevel", "use_regex": False}:
            return []
        case {"type": "ByteLevel"}:
            return [GPT2_SPLIT]
        case _:
            return [str(step)]


def _chat_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    settings = folder / TOKENIZER_CONFIG
    try:
        content = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    except ValueError:
        raise TokenizerError(f"{settings} is damaged: download the model again.") from None
    template = content.get("chat_template")
    return template if isinstance(template, str) else None
