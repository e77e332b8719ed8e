"""What a model writes after a prompt, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from repotune.model import Decoder, generate
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


def continuations(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    finished: Callable[[str], bool],
    adapted: bool,
) -> list[str]:
    """The ``continuation`` of each prompt."""
    return [
        continuation(
            decoder,
            tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            finished=finished,
            adapted=adapted,
        )
        for prompt in prompts
    ]


def continuation(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    prompt: IntArray,
    *,
    max_new_tokens: int,
    finished: Callable[[str], bool],
    adapted: bool,
) -> str:
    """The most likely text after ``prompt``, until ``finished(text)``, a stop id or the limit.

    The prompt's last token is first left for the model to write again, since in training it was
    often one token with what follows: many tokenizers join a line's end with the indentation of
    the next, so that after a line's end alone they have hardly seen any. If the model writes
    something else there, it goes on from the whole prompt. A character that the limit cuts in two
    is left out.
    """
    before, last = prompt[:-1], prompt[-1:]
    held = _text(tokenizer, before, last) if len(before) else ""
    if held and BROKEN not in held:

        def halted(text: str) -> bool:
            agrees = text.startswith(held) or held.startswith(text)
            return not agrees or finished(text[len(held) :])

        text = _written(decoder, tokenizer, before, max_new_tokens + 1, halted, adapted=adapted)
        if text.startswith(held):
            return text[len(held) :]
    return _written(decoder, tokenizer, prompt, max_new_tokens, finished, adapted=adapted)


def _written(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    prompt: IntArray,
    max_new_tokens: int,
    finished: Callable[[str], bool],
    *,
    adapted: bool,
) -> str:
    def stop(new_ids: Sequence[int]) -> bool:
        return new_ids[-1] in tokenizer.stop_ids or finished(_text(tokenizer, prompt, new_ids))

    new_ids = generate(decoder, prompt, max_new_tokens=max_new_tokens, stop=stop, adapted=adapted)
    text = _text(tokenizer, prompt, new_ids)
    while text.endswith(BROKEN):
        new_ids.pop()
        text = _text(tokenizer, prompt, new_ids)
    return text


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
