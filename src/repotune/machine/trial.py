"""One layer in 4 bits, forward and backward, on the device itself and on the CPU beside it.

The model's room is above this one, so whoever calls hands in how a decoder is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from repotune.machine import fixes
from repotune.machine.facts import MachineFacts
from repotune.machine.texts import Lang, say
from repotune.records import Check, LayerPolicy, Policy, Row, Shape

if TYPE_CHECKING:
    import torch

SHAPE: Final = Shape(
    model_type="llama", vocab_size=512, hidden_size=256, intermediate_size=512,
    num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=10_000.0, rope_scaling=None, max_position_embeddings=256,
    tie_word_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
)  # fmt: skip
TOKENS: Final = 128
PASSES: Final = 3
"""The first compiles, the second may record a CUDA graph, the third is what a run repeats."""
LOSS_TOLERANCE: Final = 0.02
"""Relative. bf16 keeps 8 bits: the losses of such a layer differ by some tenths of a per cent."""
LEAST_COSINE: Final = 0.98
"""Of all LoRA gradients against the CPU's in fp32; bf16's own error is about 1 %."""


class Trainable(Protocol):
    """What is needed of a decoder."""

    def lora_state(self) -> dict[str, torch.Tensor]:
        """The adapter's weights by name, each with its ``.grad``."""
        ...

    def refresh(self) -> None:
        """Take over changed weights."""
        ...

    def loss_and_grad(
        self, row: Row, *, scale: float, policy: Policy, dropout_seed: int | None
    ) -> torch.Tensor:
        """Sum of the row's losses in nats, []; adds to the gradients."""
        ...


class RandomWeights:
    """A Llama of one layer with random weights, the same on every machine."""

    shape = SHAPE

    def __init__(self) -> None:
        width, inner = SHAPE.hidden_size, SHAPE.intermediate_size
        kv = SHAPE.num_key_value_heads * SHAPE.head_dim
        layer = "model.layers.0"
        self._sizes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (SHAPE.vocab_size, width),
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.self_attn.q_proj.weight": (width, width),
            f"{layer}.self_attn.k_proj.weight": (kv, width),
            f"{layer}.self_attn.v_proj.weight": (kv, width),
            f"{layer}.self_attn.o_proj.weight": (width, width),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
            "model.norm.weight": (width,),
            "lm_head.weight": (SHAPE.vocab_size, width),
        }

    def names(self) -> Collection[str]:
        """Hugging Face's names of the tensors."""
        return self._sizes.keys()

    def read(self, name: str) -> torch.Tensor:
        """One tensor in fp32 on the CPU; norms are ones, the rest normal."""
        import torch

        size = self._sizes[name]
        if len(size) == 1:
            return torch.ones(size)
        generator = torch.Generator().manual_seed(list(self._sizes).index(name))
        return torch.randn(size, generator=generator) * float(size[-1] ** -0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTrial:
    """How the layer did."""

    milliseconds: float
    """Of the last forward and backward."""
    error: str
    """Empty if all went well."""


def try_layer(build: Callable[[RandomWeights, str], Trainable], device: str) -> LayerTrial:
    """Train one layer on ``device`` and compare loss and gradients with the CPU's.

    ``build`` makes a decoder of the weights on a device. Whatever breaks is the finding.
    """
    try:
        expected_loss, expected, _ = _loss_and_gradient(build(RandomWeights(), "cpu"))
        loss, gradient, milliseconds = _loss_and_gradient(build(RandomWeights(), device))
    except Exception as error:  # of a driver, a compiler, a library: none is ours to foresee
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return LayerTrial(milliseconds=0.0, error=first)
    return LayerTrial(
        milliseconds=milliseconds, error=_difference(loss, expected_loss, gradient, expected)
    )


def judge_layer(facts: MachineFacts, trial: LayerTrial, lang: Lang) -> Check:
    """The line of ``doctor`` for it."""
    gpu = facts.gpu
    best = fixes.best_build(gpu.compute_capability, facts.driver) if gpu else None
    ran = say(lang, "layer_ran", ms=f"{trial.milliseconds:.1f}")
    return Check(
        key="layer", label=say(lang, "layer"),
        value=say(lang, "layer_failed") if trial.error else ran,
        needed="", page=("", "", ""), finding="missing" if trial.error else "ok",
        reason=say(lang, "layer_error", error=trial.error) if trial.error else "",
        fix=fixes.install_torch(facts, best) if trial.error and best else None,
    )  # fmt: skip


def _loss_and_gradient(decoder: Trainable) -> tuple[float, torch.Tensor, float]:
    import torch

    state = decoder.lora_state()
    generator = torch.Generator().manual_seed(0)
    for tensor in state.values():  # B begins as zeros, which would make A's gradient zero
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
    decoder.refresh()
    policy = Policy(layers=(LayerPolicy(saving="all"),), reason="")
    loss, seconds, gradient = 0.0, 0.0, torch.empty(0)
    for _ in range(PASSES):
        for tensor in state.values():
            assert tensor.grad is not None
            tensor.grad.zero_()
        start = time.perf_counter()
        summed = decoder.loss_and_grad(_row(), scale=1.0, policy=policy, dropout_seed=None)
        loss = float(summed)
        gradients = [tensor.grad for tensor in state.values() if tensor.grad is not None]
        gradient = torch.cat([one.cpu().float().flatten() for one in gradients])
        seconds = time.perf_counter() - start
    return loss, gradient, seconds * 1000


def _row() -> Row:
    """Two documents of random ids."""
    ids = np.random.default_rng(0).integers(0, SHAPE.vocab_size, TOKENS + 1)
    return Row(input_ids=ids[:-1], labels=ids[1:], starts=np.array([0, TOKENS // 3]))


def _difference(
    loss: float, expected_loss: float, gradient: torch.Tensor, expected: torch.Tensor
) -> str:
    """What is wrong with a result, empty if nothing is; NaN is wrong."""
    import torch

    if not abs(loss - expected_loss) <= LOSS_TOLERANCE * expected_loss:
        return f"its loss is {loss:.3f} and must be {expected_loss:.3f}"
    cosine = float(torch.nn.functional.cosine_similarity(gradient, expected, dim=0))
    if not cosine >= LEAST_COSINE:
        return f"its gradients differ from the CPU's (cosine {cosine:.3f})"
    return ""
