"""The Llama-family decoder: embedding, layers, norm, head; frozen, with LoRA on its linears.

Families differ only in the numbers and flags of ``records.Shape``. Forward and backward are
written out layer by layer, so that what stays in memory between them is ours to choose
(``records.Policy``).

Shapes: T tokens of a row, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from repotune.errors import ModelError
from repotune.kernels import PLAIN, Buffers, Documents, Ops
from repotune.kernels.nf4 import Nf4, allocate, can_quantise, quantise
from repotune.model.backprop import Backprop, Parts, keep_going
from repotune.model.cache import Attend, KVCache, Reach
from repotune.model.frozen import DenseWeight, FrozenWeight, Nf4Weight
from repotune.model.layer import Layer, RowContext
from repotune.model.linear import Part, StackedLinear, lora_size, parts_of, ranks_of
from repotune.model.new_tokens import EMBEDDING, HEAD, NewTokens, rows_size
from repotune.model.quantised import QuantisedLayers
from repotune.model.rope import frequencies
from repotune.model.weights import WeightSource, tensor_shapes
from repotune.records import IntArray, LoraSpec, Policy, Row

STACKS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)
"""Linears of one input are one matmul; the names are Hugging Face's."""
FIRST = np.array([0])
"""Where the only document of a row begins."""


class Decoder:
    """A frozen model with LoRA adapters; ``source`` is read tensor by tensor.

    Raises ModelError when a tensor is missing or damaged.
    """

    def __init__(
        self,
        source: WeightSource,
        *,
        lora: LoraSpec,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        seed: int = 0,
        ops: Ops = PLAIN,
        use_4bit: bool = False,
        quantised: QuantisedLayers | None = None,
    ) -> None:
        self.shape, self.lora, self.ops = source.shape, lora, ops
        self.dtype, self.device, self.use_4bit = dtype, torch.device(device), use_4bit
        self._source, self._shared = source, Buffers(dtype, self.device)
        self._quantised = quantised if use_4bit else None
        self._sizes = tensor_shapes(self.shape)
        generator = torch.Generator().manual_seed(seed)
        self._flat, masters = self._masters()
        embedding_VD = self._read("model.embed_tokens.weight")
        tied = self.shape.tie_word_embeddings
        head_VD = embedding_VD if tied else self._read("lm_head.weight")
        layers = range(self.shape.num_hidden_layers)
        self.layers = [self._layer(i, masters, generator) for i in layers]
        self.parts = Parts(
            shape=self.shape,
            ops=ops,
            embedding_VD=embedding_VD,
            layers=tuple(self.layers),
            norm_D=self._read("model.norm.weight"),
            head_VD=head_VD,
            new_tokens=self._new_tokens(embedding_VD, head_VD, masters, generator),
            inverse_h=frequencies(self.shape).to(self.device),
            shared=self._shared,
        )
        self._backprop = Backprop(self.parts, width_TDR=self._padded_width())
        self._state = self._named_masters()

    def _padded_width(self) -> int:
        """Of a gradient of the hidden state, with room for the tails of ``o`` and ``down``."""
        ranks = [linear.ranks for layer in self.layers for linear in (layer.o, layer.down)]
        return self.shape.hidden_size + max(ranks, default=0)

    def lora_state(self) -> dict[str, Tensor]:
        """The fp32 master weights by name; each one's ``.grad`` is a buffer of the decoder's.

        Names end in ``q_proj.lora_A.weight`` [r, in] and ``q_proj.lora_B.weight`` [out, r]; rows
        of new tokens are as in ``new_tokens``. After changing values in place, call ``refresh``.
        """
        return self._state

    def lora_flat(self) -> Tensor:
        """All of ``lora_state`` as one tensor, [N] fp32, of which its tensors are views."""
        return self._flat

    def release(self) -> None:
        """Let go of the memory that training keeps from row to row."""
        self._backprop.release()

    def refresh(self) -> None:
        """Take over changed master weights into the weights that the forward multiplies with."""
        self._backprop.graphs.replay("refresh", self._refresh)
        if self.parts.new_tokens is not None:
            self.parts.new_tokens.refresh()

    def _refresh(self) -> None:
        for layer in self.layers:
            for linear in layer.linears:
                linear.refresh()

    @torch.no_grad()
    def loss_and_grad(
        self, row: Row, *, scale: float, policy: Policy, dropout_seed: int | None,
        between_layers: Callable[[], None] = keep_going,
    ) -> Tensor:  # fmt: skip
        """Sum of the row's token losses in nats, []; adds ``scale`` × its gradient to ``.grad``.

        ``policy`` says for each layer what it saves for the backward, and where. On a GPU the
        result is there once it is read: the host goes on at once.

        ``between_layers`` may raise, which breaks the row off: then gradients are to be zeroed, and
        ``release`` called. It is not called in passes that are recorded, which take no second.
        """
        self._show(adapted=True)
        return self._backprop.loss_and_grad(
            row, scale=scale, policy=policy, dropout_seed=dropout_seed,
            between_layers=between_layers,
        )  # fmt: skip

    @torch.no_grad()
    def token_losses(
        self, row: Row, *, adapted: bool, between_layers: Callable[[], None] = keep_going
    ) -> Tensor:
        """Loss of every position in nats, [T] fp32; 0 where the label is IGNORE.

        ``adapted=False`` is the base model, without LoRA. ``between_layers`` may raise.
        """
        parts = self.parts
        documents, positions = parts.documents(row.starts, len(row.input_ids))
        hidden_TD = self._normed(
            self._forward(
                parts.ids(row.input_ids), positions, documents, adapted=adapted,
                between_layers=between_layers,
            )
        )  # fmt: skip
        labels_T = parts.ids(row.labels)
        return parts.ops.token_losses(hidden_TD, parts.head_VD, labels_T, self._shared)

    @torch.no_grad()
    def logits(
        self, input_ids: IntArray, *, starts: IntArray | None = None, adapted: bool = True
    ) -> Tensor:
        """Logits of every position, [T, V] fp32."""
        ids = self.parts.ids(input_ids)
        documents, positions = self.parts.documents(FIRST if starts is None else starts, len(ids))
        return self._head(self._forward(ids, positions, documents, adapted=adapted))

    def new_cache(self, slots: int, capacity: int, *, padded: bool) -> KVCache:
        """An empty cache for ``slots`` sequences of ``capacity`` tokens, see ``KVCache``."""
        return KVCache(
            self.shape, slots=slots, capacity=capacity, dtype=self.dtype, device=self.device,
            padded=padded,
        )  # fmt: skip

    @torch.no_grad()
    def begin(self, prompts: Sequence[IntArray], cache: KVCache, *, adapted: bool) -> Tensor:
        """Logits [B, V] fp32 after each of the prompts, which become sequences of the cache."""
        row = np.concatenate(prompts)
        starts = np.cumsum([0, *(len(one) for one in prompts[:-1])])
        documents, positions = self.parts.documents(starts, len(row))
        attends = cache.fill(documents, positions, self.ops.attention)
        hidden_TD = self._forward(
            self.parts.ids(row), positions, documents, adapted=adapted, attends=attends
        )
        return self._head(hidden_TD[documents.bounds[1:].long() - 1])

    @torch.no_grad()
    def go_on(
        self, ids_R: Tensor, positions_R: Tensor, cache: KVCache, reach: Reach, *, adapted: bool,
        buffers: Buffers,
    ) -> Tensor:  # fmt: skip
        """Logits [R, V] fp32 after one more token of each of the cache's sequences, in its rows.

        ``reach`` is of ``KVCache.grow``, the positions are those of the new tokens. On a GPU
        nothing is waited for, and equal ``reach`` means equal launches.
        """
        attends = cache.step(positions_R, reach)
        hidden_RD = self._forward(
            ids_R, positions_R, None, adapted=adapted, attends=attends, buffers=buffers
        )
        return self._head(hidden_RD)

    def _show(self, *, adapted: bool) -> None:
        """Let embedding and head hold the rows of new tokens that are asked about."""
        if self.parts.new_tokens is not None:
            self.parts.new_tokens.show(trained=adapted)

    def _forward(
        self, ids_T: Tensor, positions_T: Tensor, documents: Documents | None, *, adapted: bool,
        attends: Sequence[Attend] | None = None, between_layers: Callable[[], None] = keep_going,
        buffers: Buffers | None = None,
    ) -> Tensor:  # fmt: skip
        """The hidden state after the last layer; nothing is saved. It lies in ``buffers``."""
        self._show(adapted=adapted)
        buffers = buffers or self._shared
        cos, sin = self.parts.rotary(positions_T)
        row = RowContext(cos_T1h=cos, sin_T1h=sin, documents=documents, adapted=adapted)
        size = (len(ids_T), self.shape.hidden_size)
        x, y = (buffers.take(name, *size) for name in ("x", "y"))
        torch.index_select(self.parts.embedding_VD, 0, ids_T, out=x)
        middle: Tensor | None = None
        for i, layer in enumerate(self.layers):
            between_layers()
            _, middle = layer.forward(
                x, row, saving="input", kept=buffers, scratch=buffers, out=y,
                residual=middle, attend=attends[i] if attends else None,
            )  # fmt: skip
            x, y = y, x
        return x if middle is None else x.add_(middle)

    def _head(self, x_TD: Tensor) -> Tensor:
        """Logits [T, V] fp32 of the last layer's output."""
        return (self._normed(x_TD) @ self.parts.head_VD.t()).float()

    def _normed(self, x_TD: Tensor) -> Tensor:
        out_TD = torch.empty_like(x_TD)
        self.parts.ops.rms_norm(x_TD, self.parts.norm_D, self.shape.rms_norm_eps, out_TD)
        return out_TD

    def _read(self, name: str) -> Tensor:
        return self._source.read(name).to(device=self.device, dtype=self.dtype)

    def _masters(self) -> tuple[Tensor, Iterator[tuple[Tensor, Tensor]]]:
        """All masters as one tensor, and each stack's part of it and of its gradient, in order;
        last that of new tokens, if there are any."""
        sizes = []
        for index in range(self.shape.num_hidden_layers):
            for names in _stack_names(index):
                width = self._sizes[f"{names[0]}.weight"][1]
                sizes.append(lora_size(self._parts(names), width))
        if self.lora.trainable_token_indices:
            count, width = len(self.lora.trainable_token_indices), self.shape.hidden_size
            sizes.append(rows_size(count, width, tied=self.shape.tie_word_embeddings))
        flat = torch.zeros(sum(sizes), dtype=torch.float32, device=self.device)
        flat.grad = torch.zeros_like(flat)
        return flat, zip(torch.split(flat, sizes), torch.split(flat.grad, sizes), strict=True)

    def _new_tokens(
        self, embedding_VD: Tensor, head_VD: Tensor, masters: Iterator[tuple[Tensor, Tensor]],
        generator: torch.Generator,
    ) -> NewTokens | None:  # fmt: skip
        if not self.lora.trainable_token_indices:
            return None
        tables = {EMBEDDING: embedding_VD}
        if not self.shape.tie_word_embeddings:
            tables[HEAD] = head_VD
        flat, gradient = next(masters)
        return NewTokens(
            self.lora.trainable_token_indices, tables, masters=flat, gradients=gradient,
            generator=generator, ops=self.ops,
        )  # fmt: skip

    def _parts(self, names: Sequence[str]) -> tuple[Part, ...]:
        return parts_of(names, [self._sizes[f"{name}.weight"][0] for name in names], self.lora)

    def _layer(
        self, index: int, masters: Iterator[tuple[Tensor, Tensor]], generator: torch.Generator
    ) -> Layer:
        stacks = _stack_names(index)
        matrices = self._in_4_bits(index, stacks) if self.use_4bit else {}
        qkv, o, gate_up, down = (
            self._stack(names, matrices, next(masters), generator) for names in stacks
        )
        prefix = f"model.layers.{index}"
        return Layer(
            self.shape, ops=self.ops, qkv=qkv, o=o, gate_up=gate_up, down=down,
            attention_norm=self._read(f"{prefix}.input_layernorm.weight"),
            mlp_norm=self._read(f"{prefix}.post_attention_layernorm.weight"),
        )  # fmt: skip

    def _in_4_bits(self, index: int, stacks: Sequence[Sequence[str]]) -> dict[str, Nf4]:
        """The layer's matrices by name: as an earlier run has kept them, or quantised."""
        sizes = {}
        for name in (name for names in stacks for name in names):
            rows, columns = self._sizes[f"{name}.weight"]
            if not can_quantise(rows, columns):
                raise ModelError(
                    f"{name} has {rows} × {columns} numbers, which are no whole blocks of "
                    "4-bit weights: set use_4bit to false."
                )
            sizes[name] = (rows, columns)
        matrices = allocate(sizes, self.device)
        if self._quantised is not None and self._quantised.read(index, matrices):
            return matrices
        for name, matrix in matrices.items():
            matrix.copy_(quantise(self._read(f"{name}.weight")))
        if self._quantised is not None:
            self._quantised.write(index, matrices)
        return matrices

    def _stack(
        self, names: Sequence[str], matrices: Mapping[str, Nf4], masters: tuple[Tensor, Tensor],
        generator: torch.Generator,
    ) -> StackedLinear:  # fmt: skip
        """Linears of one input."""
        parts = self._parts(names)
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self._source.names()]
        return StackedLinear(
            parts,
            self._frozen(names, ranks_of(parts), matrices),
            torch.cat([self._read(name) for name in biases]) if biases else None,
            lora=self.lora,
            masters=masters[0],
            gradients=masters[1],
            generator=generator,
            ops=self.ops,
        )

    def _frozen(
        self, names: Sequence[str], ranks: int, matrices: Mapping[str, Nf4]
    ) -> FrozenWeight:
        if not self.use_4bit:
            sizes = [self._sizes[f"{name}.weight"] for name in names]
            return DenseWeight(
                (self._read(f"{name}.weight") for name in names),
                rows=sum(rows for rows, _ in sizes), width=sizes[0][1], ranks=ranks,
                dtype=self.dtype, device=self.device,
            )  # fmt: skip
        parts = [matrices[name] for name in names]
        return Nf4Weight(parts, ranks, ops=self.ops, buffers=self._shared, dtype=self.dtype)

    def _named_masters(self) -> dict[str, Tensor]:
        state = {}
        trained: list[StackedLinear | NewTokens] = []
        for layer in self.layers:
            trained += layer.linears
        if self.parts.new_tokens is not None:
            trained.append(self.parts.new_tokens)
        for one in trained:
            for name, master, gradient in one.masters():
                state[name] = master.detach()
                state[name].grad = gradient
        return state


def _stack_names(layer: int) -> list[list[str]]:
    """The modules of a layer's four stacks, by their full names."""
    return [
        [f"model.layers.{layer}.{block}.{module}" for module in modules]
        for block, modules in STACKS
    ]
