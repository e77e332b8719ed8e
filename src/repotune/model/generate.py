"""Greedy generation, many prompts at once: each matmul is one over all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch

from repotune.model.cache import cache_bytes
from repotune.model.decoder import Decoder
from repotune.records import IntArray

ROW_TOKENS: Final = 1024
"""Prompts share a row up to this many tokens; a longer prompt has one of its own."""
CPU_CACHE_BYTES: Final = 2**30
GPU_CACHE_SHARE: Final = 0.5
"""Of the memory that is free."""


def generate_batch(
    decoder: Decoder,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    stop: Callable[[int, Sequence[int]], bool],
    adapted: bool,
    max_cache_bytes: int | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, none of which is empty.

    One ends after ``max_new_tokens``, or when ``stop(index of the prompt, new_ids)`` says so; the
    token that made it stop is part of the result. As many go on at once as ``max_cache_bytes`` hold
    (None: what is there for it), at least one; where one ends, the next begins.
    """
    found: list[list[int]] = [[] for _ in prompts]
    if not prompts or max_new_tokens < 1:
        return found
    # The longest first, so that those that go on together are about as long.
    waiting = deque(sorted(range(len(prompts)), key=lambda one: -len(prompts[one])))
    capacity = len(prompts[waiting[0]]) + max_new_tokens
    budget = _budget(decoder) if max_cache_bytes is None else max_cache_bytes
    slots = min(len(prompts), max(1, budget // cache_bytes(decoder.shape, capacity, decoder.dtype)))
    cache = decoder.new_cache(slots, capacity)
    running: list[int] = []
    while waiting or running:
        joining = _joining(prompts, waiting, slots - len(running))
        if joining:
            logits = decoder.begin([prompts[one] for one in joining], cache, adapted=adapted)
            running += joining
        else:
            last_B = np.array([found[one][-1] for one in running])
            logits = decoder.go_on(last_B, cache, adapted=adapted)
        first = len(running) - len(logits)
        chosen: list[int] = logits.argmax(-1).tolist()
        # From the last to the first, since the last takes the place of one that has ended.
        for slot, token in reversed(list(enumerate(chosen, first))):
            one = running[slot]
            found[one].append(token)
            if len(found[one]) == max_new_tokens or stop(one, found[one]):
                cache.drop(slot)
                running[slot] = running[-1]
                running.pop()
    return found


def _joining(prompts: Sequence[IntArray], waiting: deque[int], free: int) -> list[int]:
    """Who begins next, as one row: taken from ``waiting``."""
    joining: list[int] = []
    room = ROW_TOKENS
    while waiting and len(joining) < free and (not joining or len(prompts[waiting[0]]) <= room):
        joining.append(waiting.popleft())
        room -= len(prompts[joining[-1]])
    return joining


def _budget(decoder: Decoder) -> int:
    if decoder.device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(decoder.device)
    # What the allocator holds and nobody uses is free as well.
    unused = torch.cuda.memory_reserved(decoder.device)
    unused -= torch.cuda.memory_allocated(decoder.device)
    return int(GPU_CACHE_SHARE * (free + unused))
