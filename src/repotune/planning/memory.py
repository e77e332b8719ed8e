"""Bytes of a training step, each term from the model's shape.

D hidden size, Q width of all query heads, K width of all key/value heads, I intermediate size,
V vocabulary, L layers, r LoRA rank, T tokens in flight, w bytes of a number in the compute
precision. ``MEASURED`` names the runs that the terms were checked against.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from repotune.planning.setup import (
    Setup,
    embedding_parameters,
    linear_parameters,
    lora_parameters,
    stacks,
    widths,
)
from repotune.records import LoraSpec, MemoryPart, Policy, Saving, Shape

MEASURED: Final = "one H100 80GB, torch 2.11, CodeLlama-7B shape, NF4, LoRA r16, 2026-11-25"
NF4_BYTES: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per parameter: 4 bits, a byte of scale for 64, an fp32 scale of scales for 256 of these (QLoRA,
arXiv 2305.14314)."""
MASTER_BYTES: Final = 16
"""Per LoRA parameter: fp32 weight, gradient and the two moments of Adam."""
PAD: Final = 64
"""Of ``model.frozen`` and ``kernels.buffers``: rows and columns are padded to multiples of it."""
LOGIT_ROWS: Final = 1024
"""Of ``kernels.triton``: rows of a chunk of logits."""
WORKSPACE: Final = 64 * 2**20
"""Of cuBLAS and cuBLASLt, as PyTorch sets them for Hopper; 16 MiB on older GPUs."""
STAGED_LAYERS: Final = 2
"""Of ``model.offload``: sets that layers arrive in. The forward has three, and then less beside."""
SEGMENTS: Final = 20 * 2**20
"""What the allocator rounds up, whatever the step."""
UNMERGED: Final = 1.8
"""Tensors of the queries' size in holes that the allocator holds: fitted, see ``benchmarks``."""
FLASH_ROWS: Final = 128
"""To whose multiples flash attention's backward rounds the rows of each document, in fp32."""
LEAST_BOUNDS: Final = 16
"""Of ``model.backprop``: bounds of documents are padded to at least so many, to a power of two."""
MOST_SMS: Final = 192
"""No GPU of the table has more multiprocessors, by which flash attention cuts its sums into parts
where it is deterministic (``mha_varlen_bwd`` of PyTorch's ``flash_api.cpp``)."""
PLAIN_LOGITS: Final = 2**23
"""Of ``kernels.cross_entropy``: logits of a chunk, in the compute precision and in fp32."""
PLAIN_PIECE: Final = 64 * 2**16
"""Of ``kernels.nf4``: numbers of a 4-bit weight that are dequantised at a time."""
CONTEXT_BASE: Final = 250 * 2**20
CONTEXT_PER_SM: Final = 4 * 2**20
"""A CUDA context with PyTorch's kernels: 0.75 to 0.85 GiB on an H100 of 132 multiprocessors, whose
stacks are most of it."""

CPU_FIXED: Final = 150 * 2**20
"""The chunk of logits and its gradient, what torch sets up at its first matmuls."""
QUERY_BLOCK: Final = 128
"""Of ``kernels.attention``, which this room does not import."""


def saved_layer_bytes(
    shape: Shape, lora: LoraSpec, saving: Saving, *, tokens: int, itemsize: int,
    is_fused: bool = False,
) -> int:  # fmt: skip
    """What a layer holds between forward and backward (the fields of ``model.layer.Saved``).

    Numbers of the compute precision per token, with the adapters' tails (R numbers a stack), and
    fp32 statistics of the norms. Gate and up lie in padded rows, as does attention's output. Fused
    attention keeps a log-sum-exp for each head.
    """
    d, q, k, i = widths(shape)
    r_qkv, r_o, r_gate_up, r_down = (ranks for *_, ranks in stacks(shape, lora))
    input_, outputs = d, _padded(q + r_o) + d
    gated = _padded(2 * i + r_gate_up) + r_gate_up + r_down
    projected = q + 2 * k + r_qkv
    numbers = {
        "input": input_,
        "outputs": input_ + outputs,
        "attention": input_ + outputs + projected,
        "all": input_ + outputs + projected + gated,
    }
    statistics = {"input": 0, "outputs": 0, "attention": 4, "all": 8}[saving]
    if is_fused and saving != "input":
        statistics += 4 * shape.num_attention_heads
    return tokens * (itemsize * numbers[saving] + statistics)


def resident_bytes(setup: Setup) -> int:
    """Weights, with LoRA's masters and optimizer state beside them."""
    return weight_bytes(setup) + embedding_bytes(setup) + adapter_bytes(setup)


def weight_bytes(setup: Setup) -> int:
    """The frozen linears: 0.5159 byte a parameter in NF4, else w.

    A dense stack is one padded matrix [outputs + R, inputs + R], whose margins hold the adapter.
    """
    if setup.use_4bit:
        return round(NF4_BYTES * linear_parameters(setup.shape))
    layer = sum(_padded(o + r) * _padded(i + r) for i, o, r in stacks(setup.shape, setup.lora))
    return setup.shape.num_hidden_layers * layer * setup.itemsize


def embedding_bytes(setup: Setup) -> int:
    """Embedding and head in the compute precision."""
    return embedding_parameters(setup.shape) * setup.itemsize


def adapter_bytes(setup: Setup) -> int:
    """LoRA: 16 bytes a parameter, and beside 4-bit weights compute copies of A [R, inputs].

    The copies of a dense weight lie in its margins.
    """
    parameters = lora_parameters(setup.shape, setup.lora)
    copies = sum(r * i for i, _, r in stacks(setup.shape, setup.lora))
    layers = setup.shape.num_hidden_layers
    return parameters * MASTER_BYTES + (layers * copies * setup.itemsize if setup.use_4bit else 0)


def moments_bytes(setup: Setup) -> int:
    """What a device is spared of Adam's moments where they wait on the host; 0 on a CPU.

    They come back in small chunks, when no step's tensors are there.
    """
    if setup.device == "cpu":
        return 0
    return MASTER_BYTES // 2 * lora_parameters(setup.shape, setup.lora)


def dequantised_bytes(setup: Setup) -> int:
    """One buffer of the largest stack's size, which all layers share; 0 for dense weights."""
    if not setup.use_4bit:
        return 0
    each = (_padded(o + r) * _padded(i + r) for i, o, r in stacks(setup.shape, setup.lora))
    return max(each) * setup.itemsize


def expanded_layer_bytes(setup: Setup) -> int:
    """What a layer's 4-bit weights take in 16 bits, the adapter in their margins; else 0."""
    if not setup.use_4bit:
        return 0
    each = (_padded(o + r) * _padded(i + r) for i, o, r in stacks(setup.shape, setup.lora))
    return sum(each) * setup.itemsize


def expanded_bytes(setup: Setup, policy: Policy) -> int:
    """Of the layers whose weights the policy keeps in 16 bits beside those in 4."""
    return expanded_layer_bytes(setup) * sum(one.expanded for one in policy.layers)


def scratch_bytes(setup: Setup, savings: frozenset[Saving]) -> int:
    """What the layers share on CUDA: the backward's buffers, and what it recomputes into.

    Per token: normed, d, dnormed and x, the rotary tables, ids and positions; ``product``, where q,
    k and v lie too if they are computed again; ``gate_up``, for the gradient of q, k and v and for
    a chunk of logits too. A layer that saves only its input has q, k, v, attention's output and the
    residual beside them. With dropout a mask and a masked copy of down's input.
    """
    d, q, k, i = widths(setup.shape)
    r_qkv, r_o, r_gate_up, r_down = (ranks for *_, ranks in stacks(setup.shape, setup.lora))
    tokens, qkv = setup.tokens, q + 2 * k
    again = bool(savings & {"outputs", "input"})
    numbers = _padded(d + max(r_qkv, r_gate_up)) + _padded(d + setup.lora.r) + d
    numbers += _padded(q + r_o) + setup.shape.head_dim
    numbers += max(_padded(i + r_down), qkv if again else 0)
    wide = _padded(qkv + r_qkv)
    if savings != {"all"}:
        wide = max(wide, _padded(2 * i + r_gate_up))
        numbers += r_gate_up + r_down
    if again:
        numbers += r_qkv
    if "input" in savings:
        numbers += qkv + _padded(q + r_o) + d
    if setup.lora.dropout:
        numbers += 2 * i
    vocab = setup.shape.vocab_size
    if setup.is_fused:
        shared = max(tokens * wide, min(LOGIT_ROWS, tokens) * vocab) * setup.itemsize
    else:
        # q, k and v are copies of the stack's output, in scratch where they are not kept.
        numbers += qkv * (again + bool("input" not in savings and savings - {"outputs"}))
        logits = plain_chunk(setup) * vocab
        shared = tokens * wide * setup.itemsize + logits * (setup.itemsize + 4)
    return tokens * (setup.itemsize * numbers + 32) + shared


def uses_flash(setup: Setup) -> bool:
    """Whether cuDNN's attention cannot be used, as ``kernels.triton`` decides for usual heads."""
    _, q, k, _ = widths(setup.shape)
    windowed = setup.shape.sliding_window is not None
    return setup.deterministic or setup.documents is not None or k < q or windowed


def attention_bytes(setup: Setup) -> int:
    """What attention's backward allocates: dq, dk and dv, dq in fp32, and small statistics.

    Flash attention (documents of several lengths, grouped queries, a window, deterministic) copies
    its output and the gradient, gives each query head its own dk and dv, and pads each document in
    fp32. Without fused operations this is the peak of all that plain ones allocate, see
    ``plain_bytes``.
    """
    if not setup.is_fused:
        return plain_bytes(setup)
    _, q, k, _ = widths(setup.shape)
    numbers = q + 2 * k
    if uses_flash(setup):
        numbers += 2 * q + (2 * q if k < q else 0)
    statistics = 8 * setup.shape.num_attention_heads
    return setup.tokens * (setup.itemsize * numbers + statistics) + _dq_rows(setup) * 4 * q


def _dq_rows(setup: Setup) -> int:
    """Of dq in fp32. Where flash attention is deterministic each part of its sums has its own: as
    many parts as occupy the GPU, which are most where each row is one document."""
    if not uses_flash(setup):
        return setup.tokens
    documents = setup.documents or 0
    if not setup.deterministic:
        return setup.tokens + FLASH_ROWS * documents
    whole = max(1, setup.tokens // (setup.longest or setup.tokens))
    padded = max(LEAST_BOUNDS, 2 ** documents.bit_length()) if documents else whole
    heads = setup.shape.num_attention_heads
    return max(
        ceil(MOST_SMS / (count * heads)) * (setup.tokens + FLASH_ROWS * count)
        for count in (whole, padded)
    )


def plain_bytes(setup: Setup) -> int:
    """The most that plain operations on a GPU hold at once beside the scratch.

    dq, dk and dv stay until the layer's end. Beside them, either attention of the longest document
    (its output again, dq, dk and dv for each query head, k's and v's sums, dq in fp32 and two
    statistics of PyTorch's memory-efficient kernel), or the norm's backward (three numbers in
    fp32), or a piece of a 4-bit weight in fp32, its codes, and all of its scales. Without them,
    SwiGLU's backward (three of its width) or a chunk of logits in fp32 and two of its inputs.
    """
    d, q, k, i = widths(setup.shape)
    tokens, w = setup.tokens, setup.itemsize
    longest = min(setup.longest or tokens, tokens)
    heads = setup.shape.num_attention_heads
    attention = longest * (w * (4 * q + 2 * k) + 4 * q + 8 * heads)
    if setup.deterministic:
        block = longest * (2 * QUERY_BLOCK * heads + heads + k) + 3 * QUERY_BLOCK * q
        attention = w * (tokens * q + longest * (2 * q + 2 * k) + block)
    largest = d * max(q, i) if setup.use_4bit else 0
    weight = 6 * min(largest, PLAIN_PIECE) + largest // 4
    layer = w * tokens * (q + 2 * k) + max(attention, 12 * tokens * d, weight)
    rows = plain_chunk(setup)
    return max(layer, 3 * w * tokens * i, rows * (4 * setup.shape.vocab_size + 2 * w * d))


def plain_chunk(setup: Setup) -> int:
    """Rows of a chunk of logits, of ``kernels.cross_entropy``."""
    return min(max(1, PLAIN_LOGITS // setup.shape.vocab_size), setup.tokens)


def staging_bytes(setup: Setup, policy: Policy) -> int:
    """Buffers of a layer's saved tensors, through which offloaded ones come and go."""
    sizes = [_saved(setup, one.saving) for one in policy.layers if one.offloaded]
    return STAGED_LAYERS * max(sizes, default=0)


def offloaded_bytes(setup: Setup, policy: Policy) -> int:
    """What waits in pinned host memory: saved tensors, and Adam's moments."""
    saved = sum(_saved(setup, one.saving) for one in policy.layers if one.offloaded)
    return saved + (moments_bytes(setup) if policy.optimizer_offloaded else 0)


def saved_bytes(setup: Setup, policy: Policy) -> int:
    """Saved tensors that stay on the device."""
    return sum(_saved(setup, one.saving) for one in policy.layers if not one.offloaded)


def slack_bytes(setup: Setup) -> int:
    """Reserved by the caching allocator beyond what is allocated at the peak."""
    queries = setup.tokens * widths(setup.shape)[1] * setup.itemsize
    return SEGMENTS + round(UNMERGED * queries)


def context_bytes(sm_count: int) -> int:
    """The CUDA context of a GPU with ``sm_count`` multiprocessors, where it was not measured."""
    return CONTEXT_BASE + CONTEXT_PER_SM * sm_count


def working_bytes(shape: Shape, *, tokens: int, itemsize: int) -> int:
    """On a CPU: temporaries of one layer, chunks of logits.

    Fitted to peaks of the starter on a CPU, 512 to 4,096 tokens in bf16 and fp32, kept and
    recomputed (glibc): the whole plan is 40 to 90 MiB above the measured 683 to 1,178 MiB. The
    backward holds about five tensors of width I at once and the matmuls over a block of 128
    queries five of heads × 128 × tokens; the allocator's gaps double that.
    """
    per_token = 12 * shape.intermediate_size + 8 * shape.hidden_size
    attention = 12 * shape.num_attention_heads * QUERY_BLOCK
    return CPU_FIXED + tokens * itemsize * (per_token + attention)


def shared_bytes(setup: Setup, savings: frozenset[Saving]) -> int:
    """All that does not depend on how many layers save what: resident, scratch and slack."""
    resident = resident_bytes(setup)
    if setup.device == "cpu":
        working = working_bytes(setup.shape, tokens=setup.tokens, itemsize=setup.itemsize)
        return resident + working
    fixed = dequantised_bytes(setup) + WORKSPACE
    moving = scratch_bytes(setup, savings) + attention_bytes(setup)
    return resident + fixed + moving + slack_bytes(setup)


def memory_parts(setup: Setup, policy: Policy) -> tuple[MemoryPart, ...]:
    """The expected peak by component, the context left out; their sum is what is reserved."""
    adapter = adapter_bytes(setup)
    if policy.optimizer_offloaded:
        adapter -= moments_bytes(setup)
    linears = "0.5159 byte/parameter" if setup.use_4bit else f"{setup.itemsize} bytes/parameter"
    parts = [
        _part("weights", weight_bytes(setup), f"L(D(Q+2K)+QD+3DI), {linears}", "QLoRA, padding"),
        _part("embedding and head", embedding_bytes(setup), "V·D each", "config.json"),
        _part("LoRA and Adam", adapter, "16 bytes/parameter and copies", "optimizer"),
        _part("saved activations", saved_bytes(setup, policy), "T·w·numbers by policy", "layer"),
    ]
    if setup.device == "cpu":
        working = working_bytes(setup.shape, tokens=setup.tokens, itemsize=setup.itemsize)
        parts.append(_part("working set", working, "T·w·(12I+8D+1536·heads)", "fitted, starter"))
        return tuple(parts)
    savings = frozenset(one.saving for one in policy.layers)
    fixed = dequantised_bytes(setup) + WORKSPACE
    parts += [
        _part("staging", staging_bytes(setup, policy), "2 layers' saved tensors", "offload"),
        _part("16-bit copies", expanded_bytes(setup, policy), "w·layers' weights", "frozen"),
        _part("weight buffer", fixed, "largest stack, cuBLAS 64 MiB", "frozen"),
        _part("backward", scratch_bytes(setup, savings), "T·w·buffers of a layer", "layer"),
        _part("attention", attention_bytes(setup), "T·(w(3Q+2K)+4Q+8·heads)", "attention"),
        _part("allocator", slack_bytes(setup), "20 MiB + 1.8·T·w·Q", MEASURED),
    ]
    return tuple(part for part in parts if part.bytes)


def _part(name: str, count: int, formula: str, source: str) -> MemoryPart:
    return MemoryPart(name=name, bytes=count, formula=formula, source=source)


def _saved(setup: Setup, saving: Saving) -> int:
    return saved_layer_bytes(
        setup.shape, setup.lora, saving, tokens=setup.tokens, itemsize=setup.itemsize,
        is_fused=setup.is_fused,
    )  # fmt: skip


def _padded(count: int) -> int:
    return -(-count // PAD) * PAD
