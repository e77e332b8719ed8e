"""What a model writes after a prompt, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from repotune.model import Decoder, generate_batch
from repotune.records import IntArray
from repotune.tokens import CodeTokenizer, prompt_ids

_SUFFIX_PART = 4
"""The code after the cursor gets at most this part of a prompt that is too long."""
_SEAMS = 8
"""Room for a prompt's special ids, and for pieces that tokenise longer after a cut."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What an incomplete character is decoded to."""


def fitted_prompt(
    tokenizer: CodeTokenizer, prefix: str, suffix: str | None, *, limit: int
) -> IntArray:
    """The prompt of ``repotune.tokens``, cut to ``limit`` ids where it is longer.

    Left to right (no ``suffix``), ids at the beginning go, and a BOS stays. Around a gap, whole
    lines go that are farthest from it, until the two sides have about their share.
    """
    ids = prompt_ids(tokenizer, prefix, suffix)
    if len(ids) <= limit:
        return ids
    if suffix is None:
        bos = ids[:1] if ids[0] == tokenizer.bos_id else ids[:0]
        return np.concatenate([bos, ids[len(ids) - max(1, limit - len(bos)) :]])
    room = max(2, limit - _SEAMS)
    after = _first_lines(tokenizer, suffix, room // _SUFFIX_PART)
    before = _last_lines(tokenizer, prefix, room - len(tokenizer.encode(after)))
    return prompt_ids(tokenizer, before, after)


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote after a prompt."""

    text: str
    ended: bool
    """By a stop id: the model itself said that this was all."""


def continuation(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    prompt: IntArray,
    *,
    max_new_tokens: int,
    finished: Callable[[str], bool],
    adapted: bool,
) -> str:
    """The one of ``continuations``."""
    (text,) = continuations(
        decoder, tokenizer, [prompt], max_new_tokens=max_new_tokens, finished=finished,
        adapted=adapted,
    )  # fmt: skip
    return text


def continuations(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    finished: Callable[[str], bool],
    adapted: bool,
) -> list[str]:
    """The texts of ``write_on``."""
    written = write_on(
        decoder, tokenizer, prompts, max_new_tokens=max_new_tokens, finished=finished,
        adapted=adapted,
    )  # fmt: skip
    return [one.text for one in written]


def write_on(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    finished: Callable[[str], bool],
    adapted: bool,
) -> list[Written]:
    """The most likely text after each prompt, until ``finished(text)``, a stop id or the limit.

    A prompt's last token is first left for the model to write again, since in training it was
    often one token with what follows: many tokenizers join a line's end with the indentation of
    the next, so that after a line's end alone they have hardly seen any. If the model writes
    something else there, it goes on from the whole prompt. A character that the limit cuts in two
    is left out. All prompts are gone on from at once.
    """
    held = [_held(tokenizer, prompt) for prompt in prompts]
    healing = [one for one, text in enumerate(held) if text]

    def halted(one: int, text: str) -> bool:
        begins = held[healing[one]]
        agrees = text.startswith(begins) or begins.startswith(text)
        return not agrees or finished(text[len(begins) :])

    healed = _written(
        decoder, tokenizer, [prompts[one][:-1] for one in healing], max_new_tokens + 1, halted,
        adapted=adapted,
    )  # fmt: skip
    found = {
        one: Written(written.text[len(held[one]) :], written.ended)
        for one, written in zip(healing, healed, strict=True)
        if written.text.startswith(held[one])
    }
    others = [one for one in range(len(prompts)) if one not in found]
    plain = _written(
        decoder, tokenizer, [prompts[one] for one in others], max_new_tokens,
        lambda _, text: finished(text), adapted=adapted,
    )  # fmt: skip
    found |= zip(others, plain, strict=True)
    return [found[one] for one in range(len(prompts))]


def _held(tokenizer: CodeTokenizer, prompt: IntArray) -> str:
    """The text of the last token, if it is one that can be written again; else empty."""
    text = _text(tokenizer, prompt[:-1], prompt[-1:]) if len(prompt) > 1 else ""
    return "" if BROKEN in text else text


def _written(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    prompts: Sequence[IntArray],
    max_new_tokens: int,
    finished: Callable[[int, str], bool],
    *,
    adapted: bool,
) -> list[Written]:
    def stop(one: int, new_ids: Sequence[int]) -> bool:
        if new_ids[-1] in tokenizer.stop_ids:
            return True
        return finished(one, _text(tokenizer, prompts[one], new_ids))

    all_new_ids = generate_batch(
        decoder, prompts, max_new_tokens=max_new_tokens, stop=stop, adapted=adapted
    )
    found = []
    for prompt, new_ids in zip(prompts, all_new_ids, strict=True):
        ended = bool(new_ids) and new_ids[-1] in tokenizer.stop_ids
        text = _text(tokenizer, prompt, new_ids)
        while text.endswith(BROKEN):
            new_ids.pop()
            text = _text(tokenizer, prompt, new_ids)
        found.append(Written(text, ended))
    return found


def _text(tokenizer: CodeTokenizer, before: IntArray, new_ids: IntArray | Sequence[int]) -> str:
    """The text of ``new_ids`` where they follow ``before``."""
    begins_the_text = len(before) == (tokenizer.bos_id is not None)
    return tokenizer.decode(new_ids, continuation=not begins_the_text)


def _last_lines(tokenizer: CodeTokenizer, text: str, limit: int) -> str:
    ids = tokenizer.encode(text)
    if len(ids) <= limit:
        return text
    tail = tokenizer.decode(ids[len(ids) - limit :], continuation=True).lstrip(BROKEN)
    return tail.partition("\n")[2] or tail


def _first_lines(tokenizer: CodeTokenizer, text: str, limit: int) -> str:
    ids = tokenizer.encode(text)
    if len(ids) <= limit:
        return text
    head = tokenizer.decode(ids[:limit]).rstrip(BROKEN)
    lines, end, _ = head.rpartition("\n")
    return lines + end or head
