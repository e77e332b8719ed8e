"""Keys and values of the tokens already seen, for several sequences at once; generation only.

Shapes: B sequences, R rows of a step, which are at least B, K key/value heads, G query heads per
key/value head, T tokens of a row, S keys that are looked at, H head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from repotune.kernels import Attended, Documents
from repotune.kernels.attention import attend_step
from repotune.records import Shape

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Given q, k and v of a row, attention is written into the last argument."""
Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, Documents, Tensor], Attended]
"""Of ``kernels.Ops``."""
Reach: TypeAlias = tuple[tuple[slice, int], ...]
"""Slots that are attended to in one call, and how many keys of each are looked at."""
CPU_GROUP: Final = 8
"""Sequences: a CPU takes time for what is hidden, so those of like length go together. Prompts come
by length."""
LEAST_ROWS, LEAST_KEYS = 8, 128
"""Padded steps have one row, or so many times a power of two, and keys likewise: few sizes."""
ALIGNED_KEYS: Final = 16
"""Fused attention copies a mask whose rows are no multiple of it."""


class KVCache:
    """One slot a sequence; those in use are always the first ones."""

    def __init__(
        self, shape: Shape, *, slots: int, capacity: int, dtype: torch.dtype, device: torch.device,
        padded: bool,
    ) -> None:  # fmt: skip
        """Room for ``slots`` sequences of ``capacity`` tokens.

        ``padded``: steps come in few sizes, so that most of them are the same launches. Rows and
        keys that are too many are computed, and nobody reads them.
        """
        size = _size(shape, slots, capacity)
        # Not merely allocated: what is hidden counts zero times, and zero times NaN is NaN.
        self._keys = torch.zeros(size, dtype=dtype, device=device)
        self._values = torch.zeros(size, dtype=dtype, device=device)
        self._window, self._padded = shape.sliding_window, padded
        self.slots, self._capacity = slots, capacity
        self.lengths: list[int] = []
        """Tokens of each sequence."""

    def fill(self, documents: Documents, positions_T: Tensor, attention: Attention) -> list[Attend]:
        """For each layer the attention of a row of new sequences, a document each.

        They get the next slots, where their keys and values are kept.
        """
        lengths = [one.stop - one.start for one in documents.slices]
        first = len(self.lengths)
        slots = np.repeat(np.arange(first, first + len(lengths)), lengths)
        slots_T = torch.from_numpy(slots).to(self._keys.device)
        self.lengths += lengths

        def attend(
            keys: Tensor, values: Tensor, q_KTGH: Tensor, k_KTH: Tensor, v_KTH: Tensor,
            out_KTGH: Tensor,
        ) -> None:  # fmt: skip
            attention(q_KTGH, k_KTH, v_KTH, documents, out_KTGH)
            keys[slots_T, :, positions_T] = k_KTH.transpose(0, 1)
            values[slots_T, :, positions_T] = v_KTH.transpose(0, 1)

        return self._of_each_layer(attend)

    def grow(self) -> Reach:
        """Let each sequence have one token more; what the step that computes it has to look at."""
        self.lengths = [length + 1 for length in self.lengths]
        count = len(self.lengths)
        if not self._padded:
            groups = [slice(at, min(at + CPU_GROUP, count)) for at in range(0, count, CPU_GROUP)]
            return tuple((some, max(self.lengths[some])) for some in groups)
        rows = 1 if count == 1 else _next_size(count, LEAST_ROWS)
        keys = _next_size(max(self.lengths), LEAST_KEYS)
        return ((slice(0, min(rows, self.slots)), min(keys, self._capacity)),)

    def step(self, positions_R: Tensor, reach: Reach) -> list[Attend]:
        """For each layer the attention of a row with one token of each sequence, in their order.

        ``positions_R`` says where in their sequences those tokens stand. Rows without a sequence
        stand in unused slots.
        """
        slots_R = torch.arange(len(positions_R), device=positions_R.device)
        groups = [(some, self._bias(positions_R[some], keys)) for some, keys in reach]

        def attend(
            keys: Tensor, values: Tensor, q_KRGH: Tensor, k_KRH: Tensor, v_KRH: Tensor,
            out_KRGH: Tensor,
        ) -> None:  # fmt: skip
            keys[slots_R, :, positions_R] = k_KRH.transpose(0, 1)
            values[slots_R, :, positions_R] = v_KRH.transpose(0, 1)
            for some, bias_BS in groups:
                of_keys, of_values = (one[some, :, : bias_BS.shape[1]] for one in (keys, values))
                attend_step(q_KRGH[:, some], of_keys, of_values, bias_BS, out_KRGH[:, some])

        return self._of_each_layer(attend)

    def _bias(self, positions_B: Tensor, keys: int) -> Tensor:
        """0 for keys that the next tokens see, -inf for others, [B, S]."""
        last_B1 = positions_B[:, None]
        keys_S = torch.arange(keys, device=positions_B.device)
        hidden_BS = keys_S > last_B1
        if self._window is not None:
            hidden_BS |= keys_S <= last_B1 - self._window
        bias_BS = torch.zeros(hidden_BS.shape, dtype=self._keys.dtype, device=hidden_BS.device)
        return bias_BS.masked_fill_(hidden_BS, float("-inf"))

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


def _next_size(count: int, least: int) -> int:
    """The power of two that holds ``count``, at least ``least``."""
    return max(least, 1 << (count - 1).bit_length())
