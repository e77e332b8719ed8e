"""Greedy generation, many prompts at once: each matmul is one over all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from repotune.model.cache import ALIGNED_KEYS, cache_bytes
from repotune.model.decoder import Decoder
from repotune.model.greedy import Greedy
from repotune.records import IntArray

CPU_CACHE_BYTES: Final = 2**30
GPU_CACHE_SHARE: Final = 0.5
"""Of the memory that is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a device is kept busy."""

    row_tokens: int
    """Prompts share a row up to this many; a longer prompt has one of its own."""
    steps: int
    """Between two looks at what was written; what is too much is thrown away."""
    padded: bool
    """See ``KVCache``."""
    recorded: bool
    """See ``Greedy``."""


ON_CPU: Final = Pace(row_tokens=1024, steps=1, padded=False, recorded=False)
ON_GPU: Final = Pace(row_tokens=4096, steps=8, padded=True, recorded=True)


def generate_batch(
    decoder: Decoder,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    stop: Callable[[int, Sequence[int]], bool],
    adapted: bool,
    max_cache_bytes: int | None = None,
    pace: Pace | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, none of which is empty.

    One ends after ``max_new_tokens``, or when ``stop(index of the prompt, new_ids)`` says so; the
    token that made it stop is part of the result. As many go on at once as ``max_cache_bytes`` hold
    (None: what is there for it), at least one; where one ends, the next begins. ``pace`` is that of
    the device.
    """
    found: list[list[int]] = [[] for _ in prompts]
    if not prompts or max_new_tokens < 1:
        return found
    # The longest first, so that those that go on together are about as long.
    waiting = deque(sorted(range(len(prompts)), key=lambda one: -len(prompts[one])))
    pace = pace or (ON_GPU if decoder.device.type == "cuda" else ON_CPU)
    capacity = cache_tokens(len(prompts[waiting[0]]), max_new_tokens, pace)
    budget = _budget(decoder) if max_cache_bytes is None else max_cache_bytes
    slots = min(len(prompts), max(1, budget // cache_bytes(decoder.shape, capacity, decoder.dtype)))
    cache = decoder.new_cache(slots, capacity, padded=pace.padded)
    greedy = Greedy(decoder, cache, adapted=adapted, recorded=pace.recorded)
    running: list[int] = []
    while waiting or running:
        joining = _joining(prompts, waiting, slots - len(running), pace.row_tokens)
        if joining:
            written = [greedy.begin([prompts[one] for one in joining])]
            running += joining
        else:
            written = greedy.go_on([found[one][-1] for one in running], pace.steps)
        first = len(running) - len(written[0])
        # From the last to the first, since the last takes the place of one that has ended.
        for slot in reversed(range(first, len(running))):
            one = running[slot]
            for tokens in written:
                found[one].append(tokens[slot - first])
                if len(found[one]) == max_new_tokens or stop(one, found[one]):
                    cache.drop(slot)
                    running[slot] = running[-1]
                    running.pop()
                    break
    return found


def cache_tokens(longest_prompt: int, max_new_tokens: int, pace: Pace) -> int:
    """How many each sequence has room for, with those that are thrown away."""
    tokens = longest_prompt + max_new_tokens + pace.steps - 1
    return -(-tokens // ALIGNED_KEYS) * ALIGNED_KEYS if pace.padded else tokens


def _joining(
    prompts: Sequence[IntArray], waiting: deque[int], free: int, row_tokens: int
) -> list[int]:
    """Who begins next, as one row: taken from ``waiting``."""
    joining: list[int] = []
    room = row_tokens
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
