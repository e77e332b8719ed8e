"""Bytes of a training step, each term from the model's shape.

D hidden size, Q width of all query heads, K width of all key/value heads, I intermediate size,
V vocabulary, r LoRA rank.
"""

from __future__ import annotations

from repotune.records import LoraSpec, Saving, Shape

MASTER_BYTES = 16
"""Per LoRA parameter: fp32 weight, gradient and the two moments of Adam."""

FIXED_BYTES = 170 * 2**20
"""The chunk of logits and its gradient, what torch sets up at its first matmuls."""
QUERY_BLOCK = 128
"""Of ``kernels.attention``, which this room does not import."""


def saved_layer_bytes(
    shape: Shape, lora: LoraSpec, saving: Saving, *, tokens: int, itemsize: int
) -> int:
    """What a layer holds between forward and backward (the fields of ``model.layer.Saved``).

    Tensors of the compute precision per token, with the adapters' tails (r numbers a module), and
    the fp32 statistics of the norms.
    """
    d, q, k, i = _widths(shape)
    input_, outputs = d, q + d + lora.r
    projected, gated = q + 2 * k + 3 * lora.r, 2 * i + 2 * lora.r + 3 * lora.r
    numbers = {
        "input": input_,
        "outputs": input_ + outputs,
        "attention": input_ + outputs + projected,
        "all": input_ + outputs + projected + gated,
    }
    statistics = {"input": 0, "outputs": 0, "attention": 4, "all": 8}
    return tokens * (itemsize * numbers[saving] + statistics[saving])


def resident_bytes(shape: Shape, lora: LoraSpec, *, itemsize: int) -> int:
    """Weights in the compute precision, with LoRA's masters and optimizer state beside them."""
    d, q, k, i = _widths(shape)
    linears = shape.num_hidden_layers * (d * (q + 2 * k) + q * d + 3 * d * i)
    embeddings = shape.vocab_size * d * (1 if shape.tie_word_embeddings else 2)
    width = {
        "q_proj": d + q, "k_proj": d + k, "v_proj": d + k, "o_proj": q + d,
        "gate_proj": d + i, "up_proj": d + i, "down_proj": i + d,
    }  # fmt: skip
    adapters = shape.num_hidden_layers * lora.r * sum(width[m] for m in lora.target_modules)
    return (linears + embeddings) * itemsize + adapters * (MASTER_BYTES + 2 * itemsize)


def working_bytes(shape: Shape, *, tokens: int, itemsize: int) -> int:
    """What is neither weight nor saved activation: temporaries of one layer, chunks of logits.

    Fitted to peaks of the starter on a CPU, 512 to 4,096 tokens in bf16 and fp32, kept and
    recomputed (glibc): the formula is within 75 MiB of the measured 200 to 506 MiB. The
    backward holds about five tensors of width I at once and the matmuls over a block of 128
    queries five of heads × 128 × tokens; the allocator's gaps double that.
    """
    per_token = 12 * shape.intermediate_size + 8 * shape.hidden_size
    attention = 12 * shape.num_attention_heads * QUERY_BLOCK
    return FIXED_BYTES + tokens * itemsize * (per_token + attention)


def _widths(shape: Shape) -> tuple[int, int, int, int]:
    return (
        shape.hidden_size,
        shape.num_attention_heads * shape.head_dim,
        shape.num_key_value_heads * shape.head_dim,
        shape.intermediate_size,
    )
