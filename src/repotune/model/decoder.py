"""The Llama-family decoder: embedding, layers, norm, head; frozen, with LoRA on its linears.

Families differ only in the numbers and flags of ``records.Shape``. Forward and backward are
written out layer by layer, so that what stays in memory between them is ours to choose
(``records.Policy``).

Shapes: T tokens of a row, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from repotune.kernels import PLAIN, Buffers, Documents, Ops
from repotune.kernels.nf4 import quantise
from repotune.model.frozen import DenseWeight, FrozenWeight, Nf4Weight
from repotune.model.layer import Layer, LayerCache, RowContext
from repotune.model.linear import StackedLinear, parts_of, ranks_of
from repotune.model.rope import frequencies, tables
from repotune.model.weights import WeightSource
from repotune.records import IntArray, LoraSpec, Policy, Row

STACKS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)
"""Linears of one input are one matmul; the names are Hugging Face's."""


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
    ) -> None:
        self.shape, self.lora, self.ops = source.shape, lora, ops
        self.dtype, self.device, self.use_4bit = dtype, torch.device(device), use_4bit
        self._source = source
        self._shared = Buffers(dtype, self.device)
        generator = torch.Generator().manual_seed(seed)
        self.embedding_VD = self._read("model.embed_tokens.weight")
        self.layers = [self._layer(i, generator) for i in range(self.shape.num_hidden_layers)]
        self.norm_D = self._read("model.norm.weight")
        tied = self.shape.tie_word_embeddings
        self.head_VD = self.embedding_VD if tied else self._read("lm_head.weight")
        self._inverse_h = frequencies(self.shape).to(self.device)
        self._state = self._named_masters()
        self._kept = [Buffers(dtype, self.device) for _ in self.layers]

    def lora_state(self) -> dict[str, Tensor]:
        """The fp32 master weights by name; each one's ``.grad`` is a buffer of the decoder's.

        Names end in ``q_proj.lora_A.weight`` [r, in] and ``q_proj.lora_B.weight`` [out, r]. After
        changing values in place, call ``refresh``.
        """
        return self._state

    def zero_grad(self) -> None:
        """Set all LoRA gradients to zero, in place."""
        for tensor in self._state.values():
            assert tensor.grad is not None
            tensor.grad.zero_()

    def refresh(self) -> None:
        """Take over changed master weights into the weights that the forward multiplies with."""
        for layer in self.layers:
            for linear in layer.linears:
                linear.refresh()

    @torch.no_grad()
    def loss_and_grad(
        self, row: Row, *, scale: float, policy: Policy, dropout_seed: int | None
    ) -> float:
        """Sum of the row's token losses in nats; adds ``scale`` × its gradient to ``.grad``.

        ``policy`` says for each layer whether its activations are kept for the backward or
        recomputed from its input.
        """
        input_ids, labels = self._ids(row.input_ids), self._ids(row.labels)
        tokens, context = len(input_ids), self._context(row.starts, len(input_ids))
        contexts = [self._with_seed(context, dropout_seed, i) for i in range(len(self.layers))]
        inputs = [kept.take("x", tokens, self.shape.hidden_size) for kept in self._kept]
        inputs.append(self._shared.take("x", tokens, self.shape.hidden_size))
        torch.index_select(self.embedding_VD, 0, input_ids, out=inputs[0])
        saved = [
            layer.forward(
                inputs[i], contexts[i], saving=policy.layers[i].saving, kept=self._kept[i],
                scratch=self._shared, out=inputs[i + 1],
            )
            for i, layer in enumerate(self.layers)
        ]  # fmt: skip
        loss, d_TDR = self._head(inputs[-1], labels, scale)
        for i in reversed(range(len(self.layers))):
            layer, memory = self.layers[i], saved.pop()
            layer.backward(d_TDR, memory, contexts[i], scratch=self._shared, out=d_TDR)
        return float(loss)

    def _head(self, x_TD: Tensor, labels_T: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Norm, head and loss; the gradient of x, padded for the adapters of the last layer."""
        tokens, width = x_TD.shape
        normed = self._shared.take("normed", tokens, width)
        rstd = self.ops.rms_norm(x_TD, self.norm_D, self.shape.rms_norm_eps, normed)
        dnormed = self._shared.take("dnormed", tokens, width)
        loss = self.ops.cross_entropy(
            normed, self.head_VD, labels_T, scale=scale, dx=dnormed, buffers=self._shared
        )
        d_TDR = self._shared.take_padded("d", tokens, width + self.lora.r)
        zero = self.norm_D.new_zeros(1, width).expand(tokens, width)
        self.ops.rms_norm_backward(dnormed, x_TD, self.norm_D, rstd, zero, d_TDR[:, :width])
        return loss, d_TDR

    @torch.no_grad()
    def token_losses(self, row: Row, *, adapted: bool) -> Tensor:
        """Loss of every position in nats, [T] fp32; 0 where the label is IGNORE.

        ``adapted=False`` is the base model, without LoRA.
        """
        hidden_TD = self._hidden(self._ids(row.input_ids), row.starts, adapted=adapted)
        return self.ops.token_losses(hidden_TD, self.head_VD, self._ids(row.labels), self._shared)

    @torch.no_grad()
    def logits(
        self, input_ids: IntArray, *, starts: IntArray | None = None, adapted: bool = True
    ) -> Tensor:
        """Logits of every position, [T, V] fp32."""
        hidden_TD = self._hidden(self._ids(input_ids), starts, adapted=adapted)
        return (hidden_TD @ self.head_VD.t()).float()

    def new_caches(self, capacity: int) -> list[LayerCache]:
        """Empty key/value caches for ``capacity`` tokens, one per layer."""
        size = (self.shape.num_key_value_heads, capacity, self.shape.head_dim)
        return [
            LayerCache(
                keys=torch.empty(size, dtype=self.dtype, device=self.device),
                values=torch.empty(size, dtype=self.dtype, device=self.device),
            )
            for _ in self.layers
        ]

    @torch.no_grad()
    def next_logits(
        self, input_ids: IntArray, caches: Sequence[LayerCache], *, adapted: bool = True
    ) -> Tensor:
        """Logits [V] fp32 after ``input_ids``, which follow what the caches already hold."""
        ids = self._ids(input_ids)
        offset = caches[0].length
        positions = torch.arange(offset, offset + len(ids), device=self.device)
        cos, sin = tables(self._inverse_h, positions, self.dtype)
        documents = Documents(slices=(), bounds=ids, longest=0, window=None)
        row = RowContext(cos_T1h=cos, sin_T1h=sin, documents=documents, adapted=adapted)
        hidden_TD = self._forward(ids, row, caches)
        return (self._normed(hidden_TD[-1:]) @ self.head_VD.t()).float().squeeze(0)

    def _hidden(self, ids_T: Tensor, starts: IntArray | None, *, adapted: bool) -> Tensor:
        return self._normed(
            self._forward(ids_T, self._context(starts, len(ids_T), adapted=adapted))
        )

    def _forward(
        self, ids_T: Tensor, row: RowContext, caches: Sequence[LayerCache] | None = None
    ) -> Tensor:
        """The hidden state after the last layer; nothing is saved."""
        size = (len(ids_T), self.shape.hidden_size)
        x, y = (self._shared.take(name, *size) for name in ("x", "y"))
        torch.index_select(self.embedding_VD, 0, ids_T, out=x)
        for i, layer in enumerate(self.layers):
            layer.forward(
                x, row, saving="input", kept=self._shared, scratch=self._shared, out=y,
                cache=caches[i] if caches else None,
            )  # fmt: skip
            x, y = y, x
        return x

    def _normed(self, x_TD: Tensor) -> Tensor:
        out_TD = torch.empty_like(x_TD)
        self.ops.rms_norm(x_TD, self.norm_D, self.shape.rms_norm_eps, out_TD)
        return out_TD

    def _context(self, starts: IntArray | None, tokens: int, *, adapted: bool = True) -> RowContext:
        """Positions start anew with each document."""
        first = [0] if starts is None else [int(start) for start in starts]
        bounds = [*first, tokens]
        lengths = [stop - start for start, stop in pairwise(bounds)]
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        cos, sin = tables(self._inverse_h, positions, self.dtype)
        documents = Documents(
            slices=tuple(slice(*pair) for pair in pairwise(bounds)),
            bounds=torch.tensor(bounds, dtype=torch.int32, device=self.device),
            longest=max(lengths),
            window=self.shape.sliding_window,
        )
        return RowContext(cos_T1h=cos, sin_T1h=sin, documents=documents, adapted=adapted)

    def _with_seed(self, row: RowContext, seed: int | None, layer: int) -> RowContext:
        if seed is None:
            return row
        return replace(row, seed=(seed * len(self.layers) + layer) % 2**60)

    def _ids(self, ids: IntArray) -> Tensor:
        # A copy: rows are mapped read-only, which torch does not know.
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)

    def _read(self, name: str) -> Tensor:
        return self._source.read(name).to(device=self.device, dtype=self.dtype)

    def _layer(self, index: int, generator: torch.Generator) -> Layer:
        prefix = f"model.layers.{index}"
        qkv, o, gate_up, down = (
            self._stack([f"{prefix}.{block}.{module}" for module in modules], generator)
            for block, modules in STACKS
        )
        return Layer(
            self.shape, ops=self.ops, qkv=qkv, o=o, gate_up=gate_up, down=down,
            attention_norm=self._read(f"{prefix}.input_layernorm.weight"),
            mlp_norm=self._read(f"{prefix}.post_attention_layernorm.weight"),
        )  # fmt: skip

    def _stack(self, names: Sequence[str], generator: torch.Generator) -> StackedLinear:
        weights = [self._read(f"{name}.weight") for name in names]
        parts = parts_of(names, [len(weight) for weight in weights], self.lora)
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self._source.names()]
        return StackedLinear(
            parts,
            self._frozen(weights, ranks_of(parts)),
            torch.cat([self._read(name) for name in biases]) if biases else None,
            lora=self.lora,
            generator=generator,
        )

    def _frozen(self, weights: list[Tensor], ranks: int) -> FrozenWeight:
        if not self.use_4bit:
            return DenseWeight(weights, ranks)
        quantised = [quantise(weight) for weight in weights]
        return Nf4Weight(quantised, ranks, ops=self.ops, buffers=self._shared, dtype=self.dtype)

    def _named_masters(self) -> dict[str, Tensor]:
        state = {}
        for layer in self.layers:
            for linear in layer.linears:
                for name, master, gradient in linear.masters():
                    state[name] = master.detach()
                    state[name].grad = gradient
        return state
