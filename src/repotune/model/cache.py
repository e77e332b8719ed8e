"""Keys and values of the tokens already seen, for several sequences at once; generation only.

Shapes: B sequences, K key/value heads, G query heads per key/value head, T tokens of a row, S the
longest of B sequences with its new token, H head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Final, TypeAlias

import torch
from torch import Tensor

from repotune.kernels import Attended, Documents
from repotune.kernels.attention import attend_step
from repotune.records import Shape

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Given q, k and v of a row, attention is written into the last argument."""
Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, Documents, Tensor], Attended]
"""Of ``kernels.Ops``."""
CPU_GROUP: Final = 8
"""Sequences: a CPU takes time for what is hidden, so those of like length go together. Prompts come
by length. A GPU waits for launches instead."""


class KVCache:
    """One slot a sequence; those in use are always the first ones."""

    def __init__(
        self, shape: Shape, *, slots: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Room for ``slots`` sequences of ``capacity`` tokens."""
        size = _size(shape, slots, capacity)
        # Not merely allocated: what is hidden counts zero times, and zero times NaN is NaN.
        self._keys = torch.zeros(size, dtype=dtype, device=device)
        self._values = torch.zeros(size, dtype=dtype, device=device)
        self._window = shape.sliding_window
        self.lengths: list[int] = []
        """Tokens of each sequence."""

    def fill(self, documents: Documents, attention: Attention) -> list[Attend]:
        """For each layer the attention of a row of new sequences, a document each.

        They get the next slots, where their keys and values are kept.
        """
        slots = range(len(self.lengths), len(self.lengths) + len(documents.slices))
        self.lengths += [one.stop - one.start for one in documents.slices]

        def attend(
            keys: Tensor, values: Tensor, q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor,
            out_KTGH: Tensor,
        ) -> None:  # fmt: skip
            attention(q_KTGH, k_KTH, v_KTH, documents, out_KTGH)
            for slot, d in zip(slots, documents.slices, strict=True):
                length = d.stop - d.start
                keys[slot, :, :length] = k_KTH[:, d]
                values[slot, :, :length] = v_KTH[:, d]

        return self._of_each_layer(attend)

    def step(self) -> tuple[Tensor, list[Attend]]:
        """Where the next token of each sequence stands, [B], and for each layer its attention.

        The row has one token of each sequence, in the order of the slots.
        """
        device = self._keys.device
        positions_B = torch.tensor(self.lengths).to(device)
        self.lengths = [length + 1 for length in self.lengths]
        slots_B = torch.arange(len(self.lengths), device=device)
        groups = [(some, self._seen(some, positions_B)) for some in self._groups()]

        def attend(
            keys: Tensor, values: Tensor, q_KBGH: Tensor, k_KBH: Tensor, v_KBH: Tensor,
            out_KBGH: Tensor,
        ) -> None:  # fmt: skip
            keys[slots_B, :, positions_B] = k_KBH.transpose(0, 1)
            values[slots_B, :, positions_B] = v_KBH.transpose(0, 1)
            for some, seen_BS in groups:
                of_keys, of_values = (one[some, :, : seen_BS.shape[1]] for one in (keys, values))
                attend_step(q_KBGH[:, some], of_keys, of_values, seen_BS, out_KBGH[:, some])

        return positions_B, self._of_each_layer(attend)

    def _groups(self) -> list[slice]:
        """Slots that are attended to in one call, as long as the longest of them."""
        count = len(self.lengths)
        at_once = CPU_GROUP if self._keys.device.type == "cpu" else count
        return [slice(at, min(at + at_once, count)) for at in range(0, count, at_once)]

    def _seen(self, some: slice, positions_B: Tensor) -> Tensor:
        """Which keys the next tokens of these slots see, [slots, S]."""
        last_B1 = positions_B[some, None]
        keys_S = torch.arange(max(self.lengths[some]), device=positions_B.device)
        if self._window is None:
            return keys_S <= last_B1
        return (keys_S <= last_B1) & (keys_S > last_B1 - self._window)

    def _of_each_layer(
        self, attend: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    ) -> list[Attend]:
        return [partial(attend, *both) for both in zip(self._keys, self._values, strict=True)]

    def drop(self, slot: int) -> None:
        """Forget a sequence; the last one takes its slot."""
        last = self.lengths.pop()
        if slot < len(self.lengths):
            self.lengths[slot] = last
            for kept in (self._keys, self._values):
                kept[:, slot, :, :last] = kept[:, len(self.lengths), :, :last]


def cache_bytes(shape: Shape, capacity: int, dtype: torch.dtype) -> int:
    """Of one sequence of ``capacity`` tokens."""
    return 2 * prod(_size(shape, 1, capacity)) * dtype.itemsize


def _size(shape: Shape, slots: int, capacity: int) -> tuple[int, int, int, int, int]:
    return (
        shape.num_hidden_layers, slots, shape.num_key_value_heads, capacity, shape.head_dim
    )  # fmt: skip
