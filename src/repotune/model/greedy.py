"""The likeliest next token of every sequence, step after step; a GPU is not waited for.

Shapes: R rows of a step, see ``cache``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from repotune.kernels import Buffers
from repotune.kernels.attention import for_masks
from repotune.model.cache import KVCache, Reach
from repotune.model.decoder import Decoder
from repotune.model.graphs import Graphs
from repotune.records import IntArray


class Greedy:
    """Goes on with the sequences of ``cache``, which no one else may change but by ``drop``.

    With ``recorded`` a step of a size that has been seen is a CUDA graph.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, *, adapted: bool, recorded: bool) -> None:
        self._decoder, self._cache, self._adapted = decoder, cache, adapted
        # Not the decoder's: longer rows in between would move what a recorded step writes to.
        self._buffers = Buffers(decoder.dtype, decoder.device)
        self._graphs, self._allocations = Graphs(on_gpu=recorded), 0
        self._ids, self._positions = (
            torch.zeros(cache.slots, dtype=torch.int64, device=decoder.device) for _ in range(2)
        )

    def begin(self, prompts: Sequence[IntArray]) -> list[int]:
        """The token after each of the prompts, which become sequences of the cache."""
        logits = self._decoder.begin(prompts, self._cache, adapted=self._adapted)
        first: list[int] = logits.argmax(-1).tolist()
        return first

    def go_on(self, last: Sequence[int], steps: int) -> list[list[int]]:
        """The next ``steps`` tokens of each sequence, after ``last``: for each step one of each."""
        unused = [0] * (self._cache.slots - len(last))
        self._ids.copy_(torch.tensor([*last, *unused]))
        self._positions.copy_(torch.tensor([*self._cache.lengths, *unused]))
        found = self._ids.new_empty(steps, len(last))
        for one in found:
            reach = self._cache.grow()
            self._graphs.replay(str(reach), partial(self._step, reach))
            if self._buffers.allocations != self._allocations:
                # Recorded steps write to where the buffers lay.
                self._graphs.clear(of_rows=False)
                self._allocations = self._buffers.allocations
            one.copy_(self._ids[: len(last)])
        tokens: list[list[int]] = found.tolist()
        return tokens

    def _step(self, reach: Reach) -> None:
        """Put the next tokens in the place of the last ones."""
        rows = reach[-1][0].stop
        ids_R, positions_R = self._ids[:rows], self._positions[:rows]
        with for_masks(self._decoder.device):
            logits_RV = self._decoder.go_on(
                ids_R, positions_R, self._cache, reach, adapted=self._adapted,
                buffers=self._buffers,
            )  # fmt: skip
        torch.argmax(logits_RV, -1, out=ids_R)
        positions_R.add_(1)
