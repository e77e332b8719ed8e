"""The vocabulary of a model's folder in Hugging Face layout: ``tokenizer.json`` and its sisters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from repotune.errors import TokenizerError
from repotune.tokens.fim import fim_tokens_in
from repotune.tokens.vocabulary import Vocabulary

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
MODEL_CONFIG: Final = "config.json"


def read_hf_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of the model in ``folder``.

    BOS and EOS are what ``tokenizer_config.json`` says, else the post-processor of
    ``tokenizer.json``, else ``config.json``. Raises TokenizerError if a file is missing or damaged.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise TokenizerError(
            f"{folder} has no {TOKENIZER}: download the whole model again, or take one that "
            "comes with it."
        )
    tokenizer = _read(path)
    settings = _read(folder / TOKENIZER_CONFIG)
    config = _read(folder / MODEL_CONFIG)
    try:
        model = tokenizer["model"]
        vocab: Mapping[str, int] = model["vocab"]
        added = {str(one["content"]): int(one["id"]) for one in tokenizer.get("added_tokens") or ()}
        names = {**vocab, **added}
        special = {**added, **{token: names[token] for token in fim_tokens_in(names)}}
        special = _known_to_the_model(special, config.get("vocab_size"))
        template = _template(tokenizer.get("post_processor"))
        bos_id = _bos(settings, config, template, names)
        eos_id = _eos(settings, config, names)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise TokenizerError(f"{path} is damaged: download the model again.") from None
    if eos_id is None:
        raise TokenizerError(
            f"Nothing in {folder} names the token that ends a text: add eos_token to "
            f"{TOKENIZER_CONFIG}."
        )
    return Vocabulary(
        source=str(path),
        model=model,
        normalizer=tokenizer.get("normalizer"),
        pre_tokenizer=tokenizer.get("pre_tokenizer"),
        special=special,
        bos_id=bos_id,
        eos_id=eos_id,
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} is damaged (no JSON object): download the model again.")
    return value


def _known_to_the_model(special: Mapping[str, int], vocab_size: object) -> dict[str, int]:
    """Without tokens beyond the embedding: CodeLlama-34B's tokenizer names fill-in-the-middle
    tokens that the model has no rows for."""
    limit = vocab_size if isinstance(vocab_size, int) else None
    return {token: number for token, number in special.items() if limit is None or number < limit}


def _template(post_processor: Mapping[str, Any] | None) -> str | None:
    """The special token that the post-processor puts before a text, if it puts one there."""
    if post_processor is None:
        return None
    if post_processor.get("type") == "Sequence":
        found = map(_template, post_processor["processors"])
        return next((token for token in found if token is not None), None)
    if post_processor.get("type") != "TemplateProcessing":
        return None
    first = post_processor["single"][0]
    return str(first["SpecialToken"]["id"]) if "SpecialToken" in first else None


def _bos(
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    template: str | None,
    names: Mapping[str, int],
) -> int | None:
    adds = settings.get("add_bos_token")
    if adds is False or (adds is None and template is None):
        return None
    if template is not None:
        return names[template]
    token = _content(settings.get("bos_token"))
    if token is not None:
        return names[token]
    number = config.get("bos_token_id")
    return number if isinstance(number, int) else None


def _eos(
    settings: Mapping[str, Any], config: Mapping[str, Any], names: Mapping[str, int]
) -> int | None:
    token = _content(settings.get("eos_token"))
    if token is not None:
        return names[token]
    number = config.get("eos_token_id")
    if isinstance(number, list) and number:
        number = number[0]
    return number if isinstance(number, int) else None


def _content(token: object) -> str | None:
    """Older files write a token as an object with its text under ``content``."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
