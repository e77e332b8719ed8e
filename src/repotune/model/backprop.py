"""One row forward through all layers and back, with each layer's activations where its policy says.

Shapes: T tokens of the row, D hidden size, V vocabulary, R ranks of an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from repotune.kernels import Buffers, Documents, Ops
from repotune.model.graphs import MAX_NUMBERS, Graphs, Inputs
from repotune.model.layer import Layer, RowContext, Saved
from repotune.model.new_tokens import NewTokens
from repotune.model.offload import Offloader
from repotune.model.rope import tables
from repotune.records import IntArray, Policy, Row, Shape


def keep_going() -> None:
    """What is called between layers where nobody wants to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a decoder is made of."""

    shape: Shape
    ops: Ops
    embedding_VD: Tensor
    layers: tuple[Layer, ...]
    norm_D: Tensor
    head_VD: Tensor
    new_tokens: NewTokens | None
    """Whose rows in embedding and head are trained, if any are."""
    inverse_h: Tensor
    """Rotary frequencies."""
    shared: Buffers
    """Scratch memory."""

    @property
    def device(self) -> torch.device:
        """Where the computing happens."""
        return self.inverse_h.device

    def rotary(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions, [T, 1, h]."""
        return tables(self.inverse_h, positions_T, self.norm_D.dtype)

    def documents(self, starts: IntArray, tokens: int) -> tuple[Documents, Tensor]:
        """Where documents lie, and each token's position in its own, [T] int64."""
        bounds = [*(int(start) for start in starts), tokens]
        lengths = np.diff(bounds)
        positions = np.arange(tokens) - np.repeat(bounds[:-1], lengths)
        documents = Documents(
            slices=tuple(slice(*pair) for pair in pairwise(bounds)),
            bounds=torch.tensor(bounds, dtype=torch.int32).to(self.device),
            longest=int(lengths.max()),
            window=self.shape.sliding_window,
        )
        return documents, torch.from_numpy(positions).to(self.device)

    def ids(self, ids: IntArray) -> Tensor:
        """Token ids or labels on the device; a copy, since stored rows are mapped read-only."""
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)


class Backprop:
    """Loss and LoRA gradients of a row; holds the memory that this takes from row to row."""

    def __init__(self, parts: Parts, *, width_TDR: int) -> None:
        self._parts, self._width_TDR = parts, width_TDR
        device, dtype = parts.device, parts.norm_D.dtype
        self._kept = [Buffers(dtype, device) for _ in parts.layers]
        self._on_gpu = device.type == "cuda"
        self._offloader = Offloader(dtype, device) if self._on_gpu else None
        self.graphs = Graphs(on_gpu=self._on_gpu)
        self._allocations = 0

    def release(self) -> None:
        """Let go of the memory that is kept from row to row, recorded passes included."""
        self.graphs.clear()
        self._expand([False] * len(self._parts.layers))
        for buffers in (*self._kept, self._parts.shared):
            buffers.clear()
        if self._offloader is not None:
            self._offloader.release()

    def loss_and_grad(
        self, row: Row, *, scale: float, policy: Policy, dropout_seed: int | None,
        between_layers: Callable[[], None],
    ) -> Tensor:  # fmt: skip
        """See ``Decoder.loss_and_grad``."""
        parts, tokens = self._parts, len(row.input_ids)
        self._expand([one.expanded for one in policy.layers])
        documents, positions = parts.documents(row.starts, tokens)
        inputs = Inputs(
            parts.ids(row.input_ids), parts.ids(row.labels), positions, documents.bounds,
            torch.tensor(scale, dtype=torch.float32).to(parts.device),
        )  # fmt: skip
        if self._on_gpu:  # recorded or not, so that the bits do not depend on it
            inputs, documents = _of_fixed_size(inputs, documents)
        is_steady = dropout_seed is None and not any(one.offloaded for one in policy.layers)
        is_recordable = self._on_gpu and parts.ops.is_recordable
        is_small = tokens * parts.shape.hidden_size <= MAX_NUMBERS
        if not (is_recordable and is_small and is_steady):
            return self._pass(inputs, documents, policy, dropout_seed, between_layers)
        allocations = sum(one.allocations for one in (*self._kept, parts.shared))
        if allocations != self._allocations:
            # A recorded pass writes to where the buffers lay, which is no longer theirs.
            self.graphs.clear()
            self._allocations = allocations
        key = (policy, tokens, len(documents.bounds), documents.longest)

        def compute(given: Inputs) -> Tensor:
            return self._pass(
                given, replace(documents, bounds=given.bounds), policy, None, keep_going
            )

        return self.graphs.run(key, inputs, compute)

    def _expand(self, wanted: Sequence[bool]) -> None:
        """Keep those layers' weights in 16 bits; what is no longer wanted goes first."""
        pairs = list(zip(self._parts.layers, wanted, strict=True))
        changed = [layer.expand(False) for layer, is_wanted in pairs if not is_wanted]
        changed += [layer.expand(True) for layer, is_wanted in pairs if is_wanted]
        if any(changed):
            self.graphs.clear(of_rows=False)

    def _pass(
        self, inputs: Inputs, documents: Documents, policy: Policy, dropout_seed: int | None,
        between_layers: Callable[[], None],
    ) -> Tensor:  # fmt: skip
        """Sum of the losses, [] fp32; the gradients are added where they belong."""
        parts = self._parts
        cos, sin = parts.rotary(inputs.positions)
        context = RowContext(cos_T1h=cos, sin_T1h=sin, documents=documents)
        contexts = [self._with_seed(context, dropout_seed, i) for i in range(len(parts.layers))]
        loss, d_TDR, memory = self._forward(inputs, contexts, policy, between_layers)
        for i in reversed(range(len(parts.layers))):
            between_layers()
            saved = self._take_back(i, memory.pop())
            parts.layers[i].backward(d_TDR, saved, contexts[i], scratch=parts.shared, out=d_TDR)
        if parts.new_tokens is not None:
            dx_TD = d_TDR[:, : parts.shape.hidden_size]
            parts.new_tokens.add_gradient(inputs.input_ids, dx_TD)
        if self._offloader is not None:
            self._offloader.end_backward()
        return loss

    def _forward(
        self, inputs: Inputs, contexts: Sequence[RowContext], policy: Policy,
        between_layers: Callable[[], None],
    ) -> tuple[Tensor, Tensor, list[Saved | None]]:  # fmt: skip
        """The loss, the gradient of the last layer's output, and what the layers have saved."""
        parts, tokens = self._parts, len(inputs.input_ids)
        x_TD = self._buffers(0, policy).take("x", tokens, parts.shape.hidden_size)
        torch.index_select(parts.embedding_VD, 0, inputs.input_ids, out=x_TD)
        memory: list[Saved | None] = []
        middle: Tensor | None = None
        for i, layer in enumerate(parts.layers):
            between_layers()
            kept, after = self._buffers(i, policy), self._buffers(i + 1, policy)
            y_TD = after.take("x", tokens, parts.shape.hidden_size)
            saved, middle = layer.forward(
                x_TD, contexts[i], saving=policy.layers[i].saving, kept=kept,
                scratch=parts.shared, out=y_TD, residual=middle,
            )  # fmt: skip
            memory.append(self._put_away(i, saved, policy))
            x_TD = y_TD
        if self._offloader is not None:
            self._offloader.end_forward()
        loss, d_TDR = self._head(x_TD, middle, inputs.labels, inputs.scale)
        return loss, d_TDR, memory

    def _head(
        self, x_TD: Tensor, middle: Tensor | None, labels_T: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Norm, head and loss; the gradient of x, padded for the adapters of the last layer."""
        parts, (tokens, width) = self._parts, x_TD.shape
        normed = parts.shared.take("normed", tokens, width)
        rstd = parts.ops.rms_norm(
            x_TD, parts.norm_D, parts.shape.rms_norm_eps, normed, add=middle, total=x_TD
        )
        dnormed = parts.shared.take("dnormed", tokens, width)
        loss = parts.ops.cross_entropy(
            normed, parts.head_VD, labels_T, scale=scale, dx=dnormed, buffers=parts.shared,
            rows=None if parts.new_tokens is None else parts.new_tokens.head_rows,
        )  # fmt: skip
        d_TDR = parts.shared.take_padded("d", tokens, self._width_TDR)
        zero = parts.norm_D.new_zeros(1, width).expand(tokens, width)
        parts.ops.rms_norm_backward(dnormed, x_TD, parts.norm_D, rstd, zero, d_TDR[:, :width])
        return loss, d_TDR

    def _buffers(self, layer: int, policy: Policy) -> Buffers:
        if layer == len(policy.layers):
            return self._parts.shared
        if policy.layers[layer].offloaded:
            assert self._offloader is not None, "only a GPU's activations are offloaded"
            return self._offloader.buffers(layer)
        return self._kept[layer]

    def _put_away(self, layer: int, saved: Saved, policy: Policy) -> Saved | None:
        if not policy.layers[layer].offloaded:
            return saved
        assert self._offloader is not None
        self._offloader.park(layer, saved)
        return None

    def _take_back(self, layer: int, saved: Saved | None) -> Saved:
        """What the layer saved; the layer below is sent for while this one computes."""
        if self._offloader is None:
            assert saved is not None
            return saved
        fetched = self._offloader.fetch(layer) if saved is None else saved
        if layer:
            self._offloader.prefetch(layer - 1)
        return fetched

    def _with_seed(self, row: RowContext, seed: int | None, layer: int) -> RowContext:
        if seed is None:
            return row
        return replace(row, seed=(seed * len(self._parts.layers) + layer) % 2**60)


def _of_fixed_size(inputs: Inputs, documents: Documents) -> tuple[Inputs, Documents]:
    """The same row in sizes that many rows share: bounds are padded with empty documents.

    By their number flash attention splits its sums, where it is deterministic.
    """
    if documents.are_equal:
        return inputs, documents
    tokens = len(inputs.input_ids)
    room = max(16, 2 ** (len(documents.bounds) - 1).bit_length()) + 1
    padded = torch.full((room,), tokens, dtype=torch.int32, device=documents.bounds.device)
    padded[: len(documents.bounds)] = documents.bounds
    longest = 2 ** (documents.longest - 1).bit_length()
    return (
        replace(inputs, bounds=padded),
        replace(documents, bounds=padded, longest=min(longest, tokens)),
    )
