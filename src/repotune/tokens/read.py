"""The vocabulary of a model on disk in any format, with the tokens that it is to be taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repotune.errors import TokenizerError
from repotune.tokens.fim import ADDED, find_fim
from repotune.tokens.gguf_vocabulary import read_gguf_vocabulary
from repotune.tokens.hf_vocabulary import read_hf_vocabulary
from repotune.tokens.vocabulary import Vocabulary


def read_vocabulary(path: Path, *, add_fim: bool) -> Vocabulary:
    """The vocabulary of the model at ``path``, a GGUF file or a folder in Hugging Face layout.

    With ``add_fim`` one that has no tokens for fill in the middle gets four, behind its last.
    Raises TokenizerError if it is missing or damaged, or has some of the four for something else,
    ModelError if a GGUF file is damaged.
    """
    vocabulary = read_hf_vocabulary(path) if path.is_dir() else read_gguf_vocabulary(path)
    if not add_fim or find_fim(vocabulary.special, vocabulary.eos_id) is not None:
        return vocabulary
    known = {**vocabulary.model["vocab"], **vocabulary.special}
    taken = [name for name in ADDED.names if name in known]
    if taken:
        raise TokenizerError(
            f"{vocabulary.source} has the token {taken[0]} and not all of {' '.join(ADDED.names)}, "
            'so they cannot be added: set fim_tokens to "model".'
        )
    first = 1 + max(*known.values(), *vocabulary.special_ids)
    added = {name: first + place for place, name in enumerate(ADDED.names)}
    return replace(
        vocabulary,
        model={**vocabulary.model, "vocab": {**vocabulary.model["vocab"], **added}},
        special={**vocabulary.special, **added},
        added=tuple(added.values()),
    )
