"""The Llama-family decoder: embedding, layers, norm, head; frozen, with LoRA on its linears.

Families differ only in the numbers and flags of ``records.Shape``. Forward and backward are
written out layer by layer, so that what stays in memory between them is ours to choose
(``records.Policy``).

Shapes: T tokens of a row, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from repotune.errors import ModelError
from repotune.kernels import PLAIN, Buffers, Documents, Ops
from repotune.kernels.nf4 import Nf4, can_quantise, quantise
from repotune.model.backprop import Backprop, Parts
from repotune.model.frozen import DenseWeight, FrozenWeight, Nf4Weight
from repotune.model.layer import Layer, LayerCache, RowContext
from repotune.model.linear import StackedLinear, parts_of, ranks_of
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
        embedding_VD = self._read("model.embed_tokens.weight")
        tied = self.shape.tie_word_embeddings
        self.layers = [self._layer(i, generator) for i in range(self.shape.num_hidden_layers)]
        self.parts = Parts(
            shape=self.shape,
            ops=ops,
            embedding_VD=embedding_VD,
            layers=tuple(self.layers),
            norm_D=self._read("model.norm.weight"),
            head_VD=embedding_VD if tied else self._read("lm_head.weight"),
            inverse_h=frequencies(self.shape).to(self.device),
            shared=self._shared,
        )
        self._backprop = Backprop(self.parts, width_TDR=self.shape.hidden_size + lora.r)
        self._flat = self._flat_masters()
        self._state = self._named_masters()

    def lora_state(self) -> dict[str, Tensor]:
        """The fp32 master weights by name; each one's ``.grad`` is a buffer of the decoder's.

        Names end in ``q_proj.lora_A.weight`` [r, in] and ``q_proj.lora_B.weight`` [out, r]. After
        changing values in place, call ``refresh``.
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

    def _refresh(self) -> None:
        for layer in self.layers:
            for linear in layer.linears:
                linear.refresh()

    @torch.no_grad()
    def loss_and_grad(
        self, row: Row, *, scale: float, policy: Policy, dropout_seed: int | None
    ) -> Tensor:
        """Sum of the row's token losses in nats, []; adds ``scale`` × its gradient to ``.grad``.

        ``policy`` says for each layer what it saves for the backward, and where. On a GPU the
        result is there once it is read: the host goes on at once.
        """
        return self._backprop.loss_and_grad(
            row, scale=scale, policy=policy, dropout_seed=dropout_seed
        )

    @torch.no_grad()
    def token_losses(self, row: Row, *, adapted: bool) -> Tensor:
        """Loss of every position in nats, [T] fp32; 0 where the label is IGNORE.

        ``adapted=False`` is the base model, without LoRA.
        """
        parts = self.parts
        hidden_TD = self._hidden(row.input_ids, row.starts, adapted=adapted)
        labels_T = parts.ids(row.labels)
        return parts.ops.token_losses(hidden_TD, parts.head_VD, labels_T, self._shared)

    @torch.no_grad()
    def logits(
        self, input_ids: IntArray, *, starts: IntArray | None = None, adapted: bool = True
    ) -> Tensor:
        """Logits of every position, [T, V] fp32."""
        hidden_TD = self._hidden(input_ids, starts, adapted=adapted)
        return (hidden_TD @ self.parts.head_VD.t()).float()

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
        ids = self.parts.ids(input_ids)
        offset = caches[0].length
        positions = torch.arange(offset, offset + len(ids), device=self.device)
        documents, _ = self.parts.documents(FIRST, len(ids))
        hidden_TD = self._forward(ids, positions, documents, adapted=adapted, caches=caches)
        return (self._normed(hidden_TD[-1:]) @ self.parts.head_VD.t()).float().squeeze(0)

    def _hidden(self, input_ids: IntArray, starts: IntArray | None, *, adapted: bool) -> Tensor:
        """The hidden state that goes into the head, [T, D]."""
        ids = self.parts.ids(input_ids)
        documents, positions = self.parts.documents(FIRST if starts is None else starts, len(ids))
        return self._normed(self._forward(ids, positions, documents, adapted=adapted))

    def _forward(
        self, ids_T: Tensor, positions_T: Tensor, documents: Documents, *, adapted: bool,
        caches: Sequence[LayerCache] | None = None,
    ) -> Tensor:  # fmt: skip
        """The hidden state after the last layer; nothing is saved."""
        cos, sin = self.parts.rotary(positions_T)
        row = RowContext(cos_T1h=cos, sin_T1h=sin, documents=documents, adapted=adapted)
        size = (len(ids_T), self.shape.hidden_size)
        x, y = (self._shared.take(name, *size) for name in ("x", "y"))
        torch.index_select(self.parts.embedding_VD, 0, ids_T, out=x)
        middle: Tensor | None = None
        for i, layer in enumerate(self.layers):
            _, middle = layer.forward(
                x, row, saving="input", kept=self._shared, scratch=self._shared, out=y,
                residual=middle, cache=caches[i] if caches else None,
            )  # fmt: skip
            x, y = y, x
        return x if middle is None else x.add_(middle)

    def _normed(self, x_TD: Tensor) -> Tensor:
        out_TD = torch.empty_like(x_TD)
        self.parts.ops.rms_norm(x_TD, self.parts.norm_D, self.shape.rms_norm_eps, out_TD)
        return out_TD

    def _read(self, name: str) -> Tensor:
        return self._source.read(name).to(device=self.device, dtype=self.dtype)

    def _layer(self, index: int, generator: torch.Generator) -> Layer:
        prefix = f"model.layers.{index}"
        stacks = [[f"{prefix}.{block}.{module}" for module in names] for block, names in STACKS]
        kept = self._kept_matrices(index, stacks)
        matrices: dict[str, Nf4] = {}
        qkv, o, gate_up, down = (self._stack(names, generator, kept, matrices) for names in stacks)
        if self._quantised is not None and not kept:
            self._quantised.write(index, matrices)
        return Layer(
            self.shape, ops=self.ops, qkv=qkv, o=o, gate_up=gate_up, down=down,
            attention_norm=self._read(f"{prefix}.input_layernorm.weight"),
            mlp_norm=self._read(f"{prefix}.post_attention_layernorm.weight"),
        )  # fmt: skip

    def _kept_matrices(self, index: int, stacks: list[list[str]]) -> dict[str, Nf4]:
        """The layer's matrices as an earlier run quantised them; empty if there are none."""
        if self._quantised is None:
            return {}
        wanted = {name: self._sizes[f"{name}.weight"] for names in stacks for name in names}
        return self._quantised.read(index, wanted, self.device) or {}

    def _stack(
        self, names: Sequence[str], generator: torch.Generator, kept: Mapping[str, Nf4],
        matrices: dict[str, Nf4],
    ) -> StackedLinear:  # fmt: skip
        """Linears of one input; in 4 bits their matrices are taken from ``kept`` or made."""
        sizes = [self._sizes[f"{name}.weight"] for name in names]
        parts = parts_of(names, [rows for rows, _ in sizes], self.lora)
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self._source.names()]
        return StackedLinear(
            parts,
            self._frozen(names, ranks_of(parts), kept, matrices),
            torch.cat([self._read(name) for name in biases]) if biases else None,
            lora=self.lora,
            generator=generator,
            ops=self.ops,
        )

    def _frozen(
        self, names: Sequence[str], ranks: int, kept: Mapping[str, Nf4],
        matrices: dict[str, Nf4],
    ) -> FrozenWeight:  # fmt: skip
        if not self.use_4bit:
            return DenseWeight([self._read(f"{name}.weight") for name in names], ranks)
        for name in names:
            size = self._sizes[f"{name}.weight"]
            if not can_quantise(*size):
                raise ModelError(
                    f"{name} has {size[0]} × {size[1]} numbers, which are no whole blocks of "
                    "4-bit weights: set use_4bit to false."
                )
            matrices[name] = kept.get(name) or quantise(self._read(f"{name}.weight"))
        parts = [matrices[name] for name in names]
        return Nf4Weight(parts, ranks, ops=self.ops, buffers=self._shared, dtype=self.dtype)

    def _flat_masters(self) -> Tensor:
        linears = [linear for layer in self.layers for linear in layer.linears]
        sizes = [linear.lora_size for linear in linears]
        flat = torch.empty(sum(sizes), dtype=torch.float32, device=self.device)
        flat.grad = torch.zeros_like(flat)
        parts = zip(torch.split(flat, sizes), torch.split(flat.grad, sizes), strict=True)
        for linear, (values, gradients) in zip(linears, parts, strict=True):
            linear.move_masters(values, gradients)
        return flat

    def _named_masters(self) -> dict[str, Tensor]:
        state = {}
        for layer in self.layers:
            for linear in layer.linears:
                for name, master, gradient in linear.masters():
                    state[name] = master.detach()
                    state[name].grad = gradient
        return state
