"""What memory and time are computed from: the setup of a step, and what a shape holds.

D hidden size, Q width of all query heads, K width of all key/value heads, I intermediate size,
V vocabulary, L layers, r LoRA rank, T tokens in flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from repotune.records import LoraSpec, Shape

Device: TypeAlias = Literal["cuda", "cpu"]

MEAN_DOCUMENT: Final = 700
"""Tokens of a piece of a file in packed rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that a step's memory and time depend on beside the policy."""

    shape: Shape
    lora: LoraSpec
    tokens: int
    """In flight: of the whole micro-batch on CUDA, of one row on a CPU."""
    itemsize: int
    """Bytes of a number in the compute precision: 2 or 4."""
    device: Device = "cpu"
    use_4bit: bool = False
    documents: int | None = None
    """Of different lengths, in flight, see ``packed_documents``; None: each row is one."""
    longest: int | None = None
    """Tokens of a row, in which the longest document is; None: all that are in flight."""
    plain: bool = False
    """On CUDA: plain operations instead of the fused ones, as ``kernels.fastest_ops`` decides."""
    deterministic: bool = False
    """On CUDA: only operations that give the same bits each time, which those for attention are
    not: flash attention instead of cuDNN's, blocks of matmuls instead of PyTorch's."""

    @property
    def is_fused(self) -> bool:
        """Whether the fused operations run; on a CPU they never do."""
        return self.device == "cuda" and not self.plain


def packed_documents(tokens: int, rows: int) -> int:
    """About how many documents are in so many packed rows of together ``tokens``."""
    return tokens // MEAN_DOCUMENT + rows


def widths(shape: Shape) -> tuple[int, int, int, int]:
    """D, Q, K and I."""
    return (
        shape.hidden_size,
        shape.num_attention_heads * shape.head_dim,
        shape.num_key_value_heads * shape.head_dim,
        shape.intermediate_size,
    )


def stacks(shape: Shape, lora: LoraSpec) -> tuple[tuple[int, int, int], ...]:
    """(inputs, outputs, R) of a layer's four matmuls: qkv, o, gate and up, down.

    R is the sum of the ranks, rounded up to a multiple of 8 (``model.linear``).
    """
    d, q, k, i = widths(shape)
    names = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
    sums = [lora.r * sum(name in lora.target_modules for name in stack) for stack in names]
    ranks = [-(-one // 8) * 8 for one in sums]
    sizes = ((d, q + 2 * k), (q, d), (d, 2 * i), (i, d))
    return tuple((*size, rank) for size, rank in zip(sizes, ranks, strict=True))


def linear_parameters(shape: Shape) -> int:
    """Of the seven linears of all layers: L · (D(Q + 2K) + QD + 3DI)."""
    d, q, k, i = widths(shape)
    return shape.num_hidden_layers * (d * (q + 2 * k) + q * d + 3 * d * i)


def embedding_parameters(shape: Shape) -> int:
    """Of embedding and head: V · D each, once if they are tied."""
    return shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)


def parameters(shape: Shape) -> int:
    """Of the linears, embedding and head; norms and biases are not counted."""
    return linear_parameters(shape) + embedding_parameters(shape)


def lora_parameters(shape: Shape, lora: LoraSpec) -> int:
    """r · (inputs + outputs) of each adapted linear, and the rows of new tokens."""
    d, q, k, i = widths(shape)
    width = {
        "q_proj": d + q, "k_proj": d + k, "v_proj": d + k, "o_proj": q + d,
        "gate_proj": d + i, "up_proj": d + i, "down_proj": i + d,
    }  # fmt: skip
    rows = len(lora.trainable_token_indices) * (1 if shape.tie_word_embeddings else 2)
    return rows * d + shape.num_hidden_layers * lora.r * sum(width[m] for m in lora.target_modules)
