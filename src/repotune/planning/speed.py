"""Seconds of a training step, each term from the model's shape and the device's rates.

Letters as in ``memory``; S is the length of a row. A micro-batch is T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from typing import Final

from repotune.planning.memory import (
    MASTER_BYTES,
    NF4_BYTES,
    PLAIN_PIECE,
    QUERY_BLOCK,
    saved_layer_bytes,
    uses_flash,
)
from repotune.planning.rates import Rates
from repotune.planning.setup import Setup, linear_parameters, lora_parameters, stacks, widths
from repotune.records import Policy, Saving

BACKWARD_ATTENTION: Final = 2.5
"""Of the forward's FLOPs: five matmuls for two (arXiv 2307.08691)."""
OPERATIONS: Final = 90
"""Of a layer, forward and backward, nothing recomputed: counted in ``model.layer``."""
OVERLAP: Final = 4
"""The host enqueues while the GPU works: together they take (gpu^4 + host^4)^(1/4). With 61, 118
and 462 ms of work and 119 ms of host time that is 121, 141 and 463 ms: 119, 142 and 456 were
measured for 1 × 1024, 1 × 2048 and 4 × 2048."""
GRAPH_NUMBERS: Final = 2**24
"""Of ``model.graphs``: a pass of at most so many T·D is replayed, and waits for no host."""
GRAPH_OPERATION: Final = 5.2e-6
"""Seconds that a GPU takes for an operation however small it is. With the work they take
(work^2 + operations^2)^(1/2) of a replayed pass: fitted to 0.1 to 13 billion parameters on an H100,
see ``benchmarks``."""
ATTENTION_EDGE: Final = 470
"""Tokens that a fused kernel computes for each query beyond those that it sees: tiles on the
diagonal, what it does once a tile. Fitted to rows of 512 to 8,192 tokens."""
CPU_ATTENTION_EDGE: Final = 230
"""The same of ``kernels.attention``, whose blocks are of 128 queries."""
WIDE_HEAD: Final = 128
FLASH: Final = 0.57
"""Flash attention's rate, of cuDNN's: 1.7 times slower (``kernels.triton.attention``)."""
PLAIN_TRAFFIC: Final = 3
"""PyTorch's plain operations read and write that many times what a fused one does."""
PLAIN_OPERATIONS: Final = 183
"""Of a layer on a GPU without the fused ones, counted in ``kernels``."""
BLOCK_OPERATIONS: Final = 25
"""Of ``kernels.attention``, for a block of queries forward and backward."""
PLAIN_DEQUANTISED: Final = 20.5
"""Bytes per parameter that ``kernels.nf4.dequantise`` reads and writes before the last number: a
code, its index twice, fp32 four times."""
CPU_BESIDE: Final = 0.08
"""What else runs in a run (progress, metrics, watching) takes this share of the cores: a row of 512
tokens of the starter takes 643 ms by itself on 2 cores, about 700 in a run."""
OPTIMIZER_TRAFFIC: Final = 2 * MASTER_BYTES + 4
"""Bytes per LoRA parameter and step: all state read and written, the compute copies remade."""
SUM_OUTPUTS: Final = 256
SUM_COLUMNS: Final = 16
"""Of ``kernels.triton.adapters``: so many outputs are one part of a sum of so many columns."""
FORWARD_SHARE: Final = 0.48
"""Of a step in which nothing is recomputed: 13.75 of 28.5 GFLOP a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Seconds of one micro-batch by what takes them, and of the optimizer's step."""

    matmuls: float
    lora: float
    attention: float
    dequantisation: float
    elementwise: float
    host: float
    """Waiting for the host to enqueue."""
    transfer: float
    """Waiting for offloaded tensors."""
    optimizer: float

    @property
    def micro_batch(self) -> float:
        """Without the optimizer."""
        device = self.matmuls + self.lora + self.attention + self.dequantisation
        return device + self.elementwise + self.host + self.transfer


def step_seconds(setup: Setup, policy: Policy, rates: Rates, *, row_tokens: int) -> Step:
    """A micro-batch of T tokens in rows of ``row_tokens``."""
    tokens = setup.tokens
    matmuls = tokens * matmul_flops(setup, policy) / rates.matmul_flops
    attention = tokens * attention_flops(setup, policy, row_tokens) / attention_rate(setup, rates)
    traffic = 1 if setup.is_fused else PLAIN_TRAFFIC
    lora = tokens * lora_traffic(setup) / rates.bandwidth
    elementwise = traffic * tokens * elementwise_traffic(setup, policy) / rates.bandwidth
    dequantisation = dequantised_traffic(setup, policy) / rates.bandwidth
    work = matmuls + attention + lora + elementwise + dequantisation
    enqueued = operations(setup, policy) * rates.operation_seconds
    if setup.device == "cpu":
        waiting = enqueued + CPU_BESIDE * work
    elif is_graphed(setup, policy):
        waiting = hypot(work, operations(setup, policy) * GRAPH_OPERATION) - work
    else:
        waiting = (work**OVERLAP + enqueued**OVERLAP) ** (1 / OVERLAP) - work
    state = lora_parameters(setup.shape, setup.lora)
    optimizer = state * OPTIMIZER_TRAFFIC / rates.bandwidth
    if policy.optimizer_offloaded and rates.host_to_device is not None:
        optimizer += state * MASTER_BYTES / rates.host_to_device  # the moments, there and back
    return Step(
        matmuls=matmuls,
        lora=lora,
        attention=attention,
        dequantisation=dequantisation,
        elementwise=elementwise,
        host=waiting,
        transfer=_transfer(setup, policy, rates, work),
        optimizer=optimizer,
    )


def matmul_flops(setup: Setup, policy: Policy) -> float:
    """Per token: 4 a frozen parameter (forward and the gradient of x; of the weight there is
    none), 6 a LoRA parameter, and 2 a parameter that is multiplied with again."""
    frozen = linear_parameters(setup.shape) + setup.shape.vocab_size * setup.shape.hidden_size
    again = recomputed_parameters(setup, policy)
    return 4 * frozen + 6 * lora_parameters(setup.shape, setup.lora) + 2 * again


def recomputed_parameters(setup: Setup, policy: Policy) -> int:
    """Frozen parameters that the backward multiplies with for a second time."""
    d, q, k, i = widths(setup.shape)
    again: dict[Saving, int] = {
        "all": 0,
        "attention": 2 * d * i,
        "outputs": 2 * d * i + d * (q + 2 * k),
        "input": 2 * d * i + d * (q + 2 * k) + q * d,
    }
    return sum(again[layer.saving] for layer in policy.layers)


def attention_flops(setup: Setup, policy: Policy, row_tokens: int) -> float:
    """Per token: 4Q for each of the S/2 tokens before it that it sees on average, forward; 2.5
    times that backward; once more for a layer that saves only its input, and for the backward of
    PyTorch's plain attention on a GPU, which a deterministic run does without.

    In packed rows a token sees as many as a document has on average: half of a document's tokens
    are before it, and long documents have more tokens than short ones.
    """
    seen = min(row_tokens / 2, setup.shape.sliding_window or row_tokens)
    if setup.documents is not None:
        seen = min(seen, setup.tokens / setup.documents)
    seen += ATTENTION_EDGE if setup.device == "cuda" else CPU_ATTENTION_EDGE
    forward = 4 * widths(setup.shape)[1] * seen
    again = sum(layer.saving == "input" for layer in policy.layers)
    if setup.device == "cuda" and setup.plain and not setup.deterministic:
        again += setup.shape.num_hidden_layers
    return forward * (setup.shape.num_hidden_layers * (1 + BACKWARD_ATTENTION) + again)


def attention_rate(setup: Setup, rates: Rates) -> float:
    """FLOP/s of the kernel that a row gets, see ``memory.attention_bytes``.

    A narrow head has fewer FLOPs for as many exponentials: with 64 columns about 0.7 of the rate.
    """
    if not setup.is_fused:
        return rates.attention_flops
    narrow = sqrt(min(1.0, setup.shape.head_dim / WIDE_HEAD))
    return rates.attention_flops * narrow * (FLASH if uses_flash(setup) else 1.0)


def lora_traffic(setup: Setup) -> float:
    """Bytes per token: each stack's input is read twice by products of R columns, its output's
    gradient once where both of its products are one pass, which leaves fp32 sums to add up."""
    each = 0.0
    for inputs, outputs, _ in stacks(setup.shape, setup.lora):
        passes = 1 if setup.is_fused else 2
        each += setup.itemsize * (2 * inputs + passes * outputs)
        if setup.is_fused:
            each += 2 * 4 * max(SUM_COLUMNS, setup.lora.r) * outputs / SUM_OUTPUTS
    return setup.shape.num_hidden_layers * each


def elementwise_traffic(setup: Setup, policy: Policy) -> float:
    """Bytes per token that norms, residuals, rotations and SwiGLU read and write.

    Forward 10D + 2(Q + K) + 2Q + 3I numbers, backward 8D + 2(Q + 2K) + 2Q + 6I, and what a layer
    computes again; plain operations 4D more for norms that are written again. Loss: four passes
    over the logits.
    """
    d, q, k, i = widths(setup.shape)
    norms = 0 if setup.is_fused else 4 * d
    once = 10 * d + 2 * (q + k) + 2 * q + 3 * i + 8 * d + norms + 2 * (q + 2 * k) + 2 * q + 6 * i
    mlp, projections = 2 * d + 3 * i, 2 * d + 2 * (q + k)
    again: dict[Saving, int] = {
        "all": 0,
        "attention": mlp,
        "outputs": mlp + projections,
        "input": mlp + projections + 2 * q + 3 * d,
    }
    numbers = sum(once + again[layer.saving] for layer in policy.layers)
    return (numbers + 4 * setup.shape.vocab_size) * setup.itemsize


def dequantised_traffic(setup: Setup, policy: Policy) -> float:
    """Bytes per micro-batch: each use of a 4-bit weight reads it and writes it in 16 bits, unless
    it is kept in these, which only layers are that recompute nothing."""
    if not setup.use_4bit:
        return 0.0
    kept = sum(one.expanded for one in policy.layers) / len(policy.layers)
    used = 2 * (1 - kept) * linear_parameters(setup.shape) + recomputed_parameters(setup, policy)
    return used * ((NF4_BYTES if setup.is_fused else PLAIN_DEQUANTISED) + setup.itemsize)


def is_graphed(setup: Setup, policy: Policy) -> bool:
    """Whether a pass is recorded once and replayed, by the engine's own conditions."""
    offloads = any(layer.offloaded for layer in policy.layers)
    is_small = setup.tokens * setup.shape.hidden_size <= GRAPH_NUMBERS
    return setup.is_fused and is_small and not setup.lora.dropout and not offloads


def operations(setup: Setup, policy: Policy) -> float:
    """Operations of a micro-batch; a layer that recomputes does a tenth more for each level."""
    extra: dict[Saving, float] = {"all": 1.0, "attention": 1.1, "outputs": 1.2, "input": 1.3}
    each = plain_operations(setup) if setup.device == "cuda" and setup.plain else OPERATIONS
    return each * sum(extra[layer.saving] for layer in policy.layers)


def plain_operations(setup: Setup) -> int:
    """Of a layer: a 4-bit matrix is dequantised twice, by five operations and four a piece;
    deterministic attention goes by blocks of queries of each document."""
    d, q, k, i = widths(setup.shape)
    sizes = (d * q, d * k, d * k, d * q, d * i, d * i, d * i)
    pieces = sum(5 + 4 * -(-size // PLAIN_PIECE) for size in sizes)
    blocks = setup.tokens // QUERY_BLOCK + (setup.documents or 1) if setup.deterministic else 0
    return PLAIN_OPERATIONS + BLOCK_OPERATIONS * blocks + (2 * pieces if setup.use_4bit else 0)


def _transfer(setup: Setup, policy: Policy, rates: Rates, work: float) -> float:
    """What is left of the copies to the host and back once they are hidden behind the work: a
    third of it is forward, two thirds backward."""
    away = sum(
        saved_layer_bytes(
            setup.shape, setup.lora, layer.saving, tokens=setup.tokens, itemsize=setup.itemsize,
            is_fused=setup.is_fused,
        )
        for layer in policy.layers
        if layer.offloaded
    )  # fmt: skip
    if not away or rates.host_to_device is None:
        return 0.0
    copy = away / rates.host_to_device
    return max(0.0, copy - work / 3) + max(0.0, copy - work * 2 / 3)
