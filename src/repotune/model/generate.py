"""Greedy generation, many prompts at once: each matmul is one over all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Final

import torch

from repotune.model.cache import ALIGNED_KEYS, KVCache, cache_bytes
from repotune.model.decoder import Decoder
from repotune.model.greedy import Greedy
from repotune.model.layer import Layer
from repotune.planning import CPU_CACHE_BYTES, GPU_CACHE_SHARE
from repotune.records import IntArray

GPU_WIDE_SHARE: Final = 0.5
"""Of the memory that the cache leaves, for 4-bit weights in 16 bits."""
WIDE_STEPS: Final = 16
"""For fewer steps no weights are widened: it saves nothing worth the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a device is kept busy."""

    row_tokens: int
    """Prompts share a row up to this many; a longer prompt has one of its own."""
    steps: int
    """At most so many between two looks at what was written; what is too much is thrown away."""
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
    if not prompts or max_new_tokens < 1:
        return [[] for _ in prompts]
    pace = pace or (ON_GPU if decoder.device.type == "cuda" else ON_CPU)
    capacity = cache_tokens(max(map(len, prompts)), max_new_tokens, pace)
    budget = _cache_budget(decoder) if max_cache_bytes is None else max_cache_bytes
    slots = max(1, budget // cache_bytes(decoder.shape, capacity, decoder.dtype))
    # Before the weights: what they are spared by a step is little beside sequences that have to
    # wait for others.
    cache = decoder.new_cache(min(len(prompts), slots), capacity, padded=pace.padded)
    steps = max_new_tokens * ceil(len(prompts) / slots)
    room = int(GPU_WIDE_SHARE * _free_on_gpu(decoder.device)) if steps >= WIDE_STEPS else 0
    with wide_layers(decoder, room):
        greedy = Greedy(decoder, cache, adapted=adapted, recorded=pace.recorded)
        return _write(greedy, prompts, cache, max_new_tokens, stop, pace)


def _write(
    greedy: Greedy, prompts: Sequence[IntArray], cache: KVCache, max_new_tokens: int,
    stop: Callable[[int, Sequence[int]], bool], pace: Pace,
) -> list[list[int]]:  # fmt: skip
    """See ``generate_batch``."""
    found: list[list[int]] = [[] for _ in prompts]
    # The longest first, so that those that go on together are about as long.
    waiting = deque(sorted(range(len(prompts)), key=lambda one: -len(prompts[one])))
    running: list[int] = []
    steps = 1  # and soon more: many stop at once
    while waiting or running:
        joining = _joining(prompts, waiting, cache.slots - len(running), pace.row_tokens)
        if joining:
            written = [greedy.begin([prompts[one] for one in joining])]
            running += joining
        else:
            written = greedy.go_on([found[one][-1] for one in running], steps)
            steps = min(2 * steps, pace.steps)
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


@contextmanager
def wide_layers(decoder: Decoder, max_bytes: int) -> Iterator[None]:
    """While inside, as many layers as ``max_bytes`` hold have their 4-bit weights in 16 bits too.

    Dequantising all of them takes a step of a few tokens longer than the step itself.
    """
    wide: list[Layer] = []
    for layer in decoder.layers if decoder.use_4bit else ():
        max_bytes -= decoder.dtype.itemsize * sum(one.outputs * one.width for one in layer.linears)
        if max_bytes < 0:
            break
        try:
            changed = layer.expand(True)
        except torch.OutOfMemoryError:
            layer.expand(False)
            break
        if changed:
            wide.append(layer)
    try:
        yield
    finally:
        for layer in wide:
            layer.expand(False)


def _cache_budget(decoder: Decoder) -> int:
    if decoder.device.type != "cuda":
        return CPU_CACHE_BYTES
    return int(GPU_CACHE_SHARE * _free_on_gpu(decoder.device))


def _free_on_gpu(device: torch.device) -> int:
    """Bytes, with what the allocator holds and nobody uses; none without a GPU."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
