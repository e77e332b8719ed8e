"""The peak of what people run today: transformers, peft and bitsandbytes, for comparison.

Letters as in ``memory``. Fitted to 14 runs of the CodeLlama-7B shape on one H100 80GB (torch 2.11,
transformers 5.17, peft 0.21, bitsandbytes 0.50.2, 2026-11-24), from which it differs by at most
2.8 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from repotune.planning.setup import embedding_parameters, linear_parameters, lora_parameters, widths
from repotune.records import LoraSpec, Shape

BNB_BYTES: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per parameter, NF4 with double quantisation."""
UNMERGED: Final = 0.39
"""Reserved beyond allocated, as a share of what a step allocates, with checkpointing: logits of
the whole batch come and go in four sizes. Without it most of the step is small equal blocks."""
UNMERGED_KEPT: Final = 0.06
UNMERGED_FP32: Final = 0.45


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRun:
    """How the plain stack is set up."""

    tokens: int
    """Batch × sequence."""
    use_4bit: bool
    gradient_checkpointing: bool
    fp32_adapters: bool = False
    """peft's default, which autocasts the LoRA weights."""
    kbit_prepared: bool = False
    """``prepare_model_for_kbit_training``: norms, embedding and head in fp32."""


def plain_stack_peak(shape: Shape, lora: LoraSpec, run: PlainRun) -> int:
    """Bytes that the allocator reserves at the peak; the device shows the context beside them."""
    moving = plain_step_bytes(shape, run)
    if not run.gradient_checkpointing:
        unmerged = UNMERGED_KEPT
    else:
        unmerged = UNMERGED_FP32 if run.kbit_prepared else UNMERGED
    return round(plain_resident_bytes(shape, lora, run) + moving * (1 + unmerged))


def plain_resident_bytes(shape: Shape, lora: LoraSpec, run: PlainRun) -> int:
    """Weights, embedding and head, LoRA with Adam's moments, between two steps.

    The gradients are freed there and counted with the step.
    """
    linear = BNB_BYTES if run.use_4bit else 2
    embedding = 4 if run.kbit_prepared else 2
    adapter = 12 if run.fp32_adapters or run.kbit_prepared else 6
    return round(
        linear_parameters(shape) * linear
        + embedding_parameters(shape) * embedding
        + lora_parameters(shape, lora) * adapter
    )


def plain_step_bytes(shape: Shape, run: PlainRun) -> float:
    """What a step allocates: saved activations and the logits of all tokens at once.

    The peak is in the loss: the logits in bf16, again in fp32, their gradient in fp32 and in bf16
    are 12 bytes a token and word, beside the hidden state and its gradient. With checkpointing
    each layer saves its input, without it what autograd keeps of its operations.
    """
    d, _, _, i = widths(shape)
    layers = shape.num_hidden_layers
    loss = 12 * shape.vocab_size + 4 * d
    per_layer: float
    if run.gradient_checkpointing:
        per_layer = d * (4 if run.kbit_prepared else 2)
    else:
        per_layer = 2 * (10 * d + 4 * i)
        if run.kbit_prepared:
            per_layer += 22.4 * d  # fp32 residual stream and norms
        elif run.fp32_adapters:
            per_layer += 8.4 * d  # inputs in fp32 for the adapters
    largest = 2 * d * i if run.use_4bit else 0  # one linear, dequantised
    head = 2 * shape.vocab_size * d if run.kbit_prepared else 0  # autocast's copy in bf16
    return run.tokens * (layers * per_layer + loss) + head + largest
