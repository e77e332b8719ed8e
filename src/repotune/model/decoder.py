"""The Llama-family decoder: embedding, layers, norm, head; frozen, with LoRA on its linears.

Families differ only in the numbers and flags of ``records.Shape``. Forward and backward are
written out layer by layer, so that what stays in memory between them is ours to choose
(``records.Policy``).

Shapes: T tokens of a row, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from repotune.kernels import PLAIN, Buffers, Ops
from repotune.model.layer import Layer, LayerCache, RowContext, Saved
from repotune.model.linear import StackedLinear
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
    ) -> None:
        self.shape, self.lora = source.shape, lora
        self.dtype, self.device = dtype, torch.device(device)
        self._source = source
        generator = torch.Generator().manual_seed(seed)
        self.embedding_VD = self._read("model.embed_tokens.weight")
        self.layers = [self._layer(i, ops, generator) for i in range(self.shape.num_hidden_layers)]
        self.norm_D = self._read("model.norm.weight")
        tied = self.shape.tie_word_embeddings
        self.head_VD = self.embedding_VD if tied else self._read("lm_head.weight")
        self.ops = ops
        self._inverse_h = frequencies(self.shape).to(self.device)
        self._state = self._named_masters()
        self._shared = Buffers(dtype, self.device)
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
        context = self._context(row.starts, len(input_ids))
        x_TD = self.embedding_VD[input_ids]
        kept: list[Tensor | Saved] = []
        contexts = [self._with_seed(context, dropout_seed, i) for i in range(len(self.layers))]
        for i, (layer, ctx) in enumerate(zip(self.layers, contexts, strict=True)):
            keep = policy.layers[i] == "keep"
            y_TD, saved = layer.forward(x_TD, ctx, self._kept[i] if keep else self._shared)
            kept.append(saved if keep else x_TD)
            x_TD = y_TD

        out_TD = torch.empty_like(x_TD)
        rstd = self.ops.rms_norm(x_TD, self.norm_D, self.shape.rms_norm_eps, out_TD)
        loss, dout_TD = self.ops.cross_entropy(out_TD, self.head_VD, labels, self._shared)
        d_TD = self.ops.rms_norm_backward(dout_TD.mul_(scale), x_TD, self.norm_D, rstd)
        for layer, ctx in zip(reversed(self.layers), reversed(contexts), strict=True):
            memory = kept.pop()
            if not isinstance(memory, Saved):
                memory = layer.forward_to_down(memory, ctx, self._shared)
            d_TD = layer.backward(d_TD, memory, ctx)
        return float(loss)

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
        row = RowContext(cos_T1h=cos, sin_T1h=sin, documents=(), adapted=adapted)
        x_TD = self.embedding_VD[ids]
        for layer, cache in zip(self.layers, caches, strict=True):
            x_TD, _ = layer.forward(x_TD, row, self._shared, cache)
        last_1D = self._normed(x_TD[-1:])
        return (last_1D @ self.head_VD.t()).float().squeeze(0)

    def _hidden(self, ids_T: Tensor, starts: IntArray | None, *, adapted: bool) -> Tensor:
        row = self._context(starts, len(ids_T), adapted=adapted)
        x_TD = self.embedding_VD[ids_T]
        for layer in self.layers:
            x_TD, _ = layer.forward(x_TD, row, self._shared)
        return self._normed(x_TD)

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
        documents = tuple(slice(*pair) for pair in pairwise(bounds))
        return RowContext(cos_T1h=cos, sin_T1h=sin, documents=documents, adapted=adapted)

    def _with_seed(self, row: RowContext, seed: int | None, layer: int) -> RowContext:
        if seed is None:
            return row
        return RowContext(
            cos_T1h=row.cos_T1h, sin_T1h=row.sin_T1h, documents=row.documents,
            adapted=row.adapted, seed=(seed * len(self.layers) + layer) % 2**60,
        )  # fmt: skip

    def _ids(self, ids: IntArray) -> Tensor:
        # A copy: rows are mapped read-only, which torch does not know.
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)

    def _read(self, name: str) -> Tensor:
        return self._source.read(name).to(device=self.device, dtype=self.dtype)

    def _layer(self, index: int, ops: Ops, generator: torch.Generator) -> Layer:
        prefix = f"model.layers.{index}"
        has_bias = {
            "q_proj": self.shape.qkv_bias,
            "o_proj": self.shape.o_bias,
            "gate_proj": self.shape.mlp_bias,
            "down_proj": self.shape.mlp_bias,
        }
        stacks = []
        for block, modules in STACKS:
            names = [f"{prefix}.{block}.{module}" for module in modules]
            biased = has_bias[modules[0]]
            stacks.append(
                StackedLinear(
                    names,
                    [self._read(f"{name}.weight") for name in names],
                    [self._read(f"{name}.bias") for name in names] if biased else None,
                    lora=self.lora,
                    generator=generator,
                )
            )
        qkv, o, gate_up, down = stacks
        return Layer(
            self.shape, ops=ops, qkv=qkv, o=o, gate_up=gate_up, down=down,
            attention_norm=self._read(f"{prefix}.input_layernorm.weight"),
            mlp_norm=self._read(f"{prefix}.post_attention_layernorm.weight"),
        )  # fmt: skip

    def _named_masters(self) -> dict[str, Tensor]:
        state = {}
        for layer in self.layers:
            for linear in layer.linears:
                for name, master, gradient in linear.masters():
                    state[name] = master.detach()
                    state[name].grad = gradient
        return state
