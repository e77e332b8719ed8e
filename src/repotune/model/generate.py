"""Greedy generation with a key/value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from repotune.model.decoder import Decoder
from repotune.records import IntArray


def generate(
    decoder: Decoder,
    prompt_ids: IntArray,
    *,
    max_new_tokens: int,
    stop: Callable[[Sequence[int]], bool],
    adapted: bool,
) -> list[int]:
    """The most likely continuation of ``prompt_ids``, token by token.

    Ends after ``max_new_tokens``, or when ``stop(new_ids)`` says so; the token that made it stop
    is part of the result.
    """
    caches = decoder.new_caches(len(prompt_ids) + max_new_tokens)
    new_ids: list[int] = []
    ids = prompt_ids
    while len(new_ids) < max_new_tokens:
        logits_V = decoder.next_logits(ids, caches, adapted=adapted)
        new_ids.append(int(logits_V.argmax()))
        if stop(new_ids):
            break
        ids = np.array(new_ids[-1:])
    return new_ids
