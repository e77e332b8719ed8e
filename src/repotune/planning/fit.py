"""Whether a configuration fits on a device, with which policy, and which one would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from repotune.config import FineTuningConfig
from repotune.errors import DoesNotFit
from repotune.planning.memory import memory_parts, saved_layer_bytes, shared_bytes, slack_bytes
from repotune.planning.policy import GIB, USABLE, choose_policy, needed_bytes
from repotune.planning.setup import Setup, packed_documents
from repotune.planning.speed import Step, step_seconds
from repotune.planning.target import Target
from repotune.records import LoraSpec, MemoryPart, Policy, Range, Shape, Verdict

TIGHT: Final = 0.9
"""Of what a run may use: if it needs more at the least, a browser window can make it fail."""
ALLOCATED_SPREAD: Final = 0.03
SLACK_SPREAD: Final = 0.5
"""The terms of the engine's own tensors are exact; what the allocator rounds is less so."""
CPU_SPREAD: Final = 0.15
LENGTHS: Final = (2048, 1536, 1024, 512, 256)
BATCHES: Final = (1, 2, 4, 8, 16)
EFFECTIVE_BATCH: Final = 16
SLOWER: Final = 0.99
"""A larger batch is taken unless what it recomputes makes it this much slower: it asks less of the
host."""
PREFER_16BIT: Final = 0.97
"""16-bit weights are exact: they are taken when they are at least nearly as fast as 4-bit ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What came out for one configuration."""

    verdict: Verdict
    reason: str
    setup: Setup
    policy: Policy | None
    parts: tuple[MemoryPart, ...]
    reserved: Range
    """GiB that the process takes for tensors: on the device, or of RAM on a CPU."""
    peak: Range
    """GiB with the context."""


def lora_of(config: FineTuningConfig) -> LoraSpec:
    """The adapters that a configuration asks for."""
    return LoraSpec(
        r=config.lora_r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=config.target_modules,
    )


def setup_of(shape: Shape, config: FineTuningConfig, target: Target) -> Setup:
    """What is in flight on ``target``: a micro-batch on CUDA, a row on a CPU."""
    on_gpu = target.device == "cuda"
    in_16_bits = config.precision in ("bf16", "fp16") or (
        config.precision == "auto" and (on_gpu or target.bf16)
    )
    rows = config.batch_size if on_gpu else 1
    tokens = config.max_seq_length * rows
    return Setup(
        shape=shape,
        lora=lora_of(config),
        tokens=tokens,
        itemsize=2 if in_16_bits else 4,
        device=target.device,
        use_4bit=config.use_4bit and on_gpu,
        documents=packed_documents(tokens, rows),
        longest=config.max_seq_length,
        plain=on_gpu and not (target.fused and in_16_bits),
        deterministic=config.deterministic,
    )


def fit(shape: Shape, config: FineTuningConfig, target: Target) -> Fit:
    """Whether ``config`` fits, by the same choice of policy that a run makes."""
    setup = setup_of(shape, config, target)
    host = target.host_free_bytes if target.device == "cuda" else 0
    least = _least_bytes(setup, config, host)
    try:
        policy = choose_policy(
            setup,
            free_bytes=target.free_bytes,
            gradient_checkpointing=config.gradient_checkpointing,
            host_free_bytes=host,
        )
    except DoesNotFit as error:
        reserved = _around(least / GIB, setup)
        peak = _plus(reserved, target.context)
        return Fit(
            verdict="does_not_fit", reason=str(error), setup=setup, policy=None, parts=(),
            reserved=reserved, peak=peak,
        )  # fmt: skip
    parts = memory_parts(setup, policy)
    reserved = _around(sum(part.bytes for part in parts) / GIB, setup)
    tight = least > TIGHT * USABLE[setup.device] * target.free_bytes
    return Fit(
        verdict="tight" if tight else "fits",
        reason=_reason(least, target, policy),
        setup=setup,
        policy=policy,
        parts=parts,
        reserved=reserved,
        peak=_plus(reserved, target.context),
    )


def peak_of(setup: Setup, policy: Policy, context: Range) -> Range:
    """GiB that the device shows under a policy that is given, its context in bytes included."""
    parts = memory_parts(setup, policy)
    return _plus(_around(sum(part.bytes for part in parts) / GIB, setup), context)


def step_of(one: Fit, config: FineTuningConfig, target: Target) -> tuple[Step, Step, Step]:
    """A micro-batch at the fast, the expected and the slow rates. The policy must be known."""
    assert one.policy is not None
    rates = target.rates
    fast, expected, slow = (
        step_seconds(one.setup, one.policy, each, row_tokens=config.max_seq_length)
        for each in (rates.fast, rates.expected, rates.slow)
    )
    return fast, expected, slow


def tokens_per_second(one: Fit, config: FineTuningConfig, target: Target) -> float:
    """As expected, the optimizer's step included."""
    step = step_of(one, config, target)[1]
    passes = passes_per_step(config, target)
    return one.setup.tokens * passes / (passes * step.micro_batch + step.optimizer)


def passes_per_step(config: FineTuningConfig, target: Target) -> int:
    """Passes through the layers before the optimizer steps."""
    rows = config.gradient_accumulation_steps
    return rows if target.device == "cuda" else rows * config.batch_size


def fastest(shape: Shape, target: Target, base: FineTuningConfig) -> FineTuningConfig | None:
    """The settings that the planner takes where nobody else decides, None if none fits.

    The longest rows that fit (up to 2,048 and what the model reads), then the largest batch that
    costs no speed, with 16 rows a step; weights in 16 bits where that is about as fast as in 4.
    """
    for length in LENGTHS:
        if length > shape.max_position_embeddings:
            continue
        best: dict[bool, tuple[float, FineTuningConfig]] = {}
        for use_4bit, batch in product((False, True), BATCHES):
            config = base.merged(
                {
                    "batch_size": batch,
                    "gradient_accumulation_steps": EFFECTIVE_BATCH // batch,
                    "max_seq_length": length,
                    "use_4bit": use_4bit,
                }
            )
            one = fit(shape, config, target)
            if one.verdict != "fits":
                continue
            speed = tokens_per_second(one, config, target)
            if use_4bit not in best or speed > SLOWER * best[use_4bit][0]:
                best[use_4bit] = (speed, config)
        if best:
            exact, small = best.get(False), best.get(True)
            if small is None or (exact is not None and exact[0] >= PREFER_16BIT * small[0]):
                assert exact is not None
                return exact[1]
            return small[1]
    return None


def nearest(
    shape: Shape, target: Target, config: FineTuningConfig
) -> tuple[FineTuningConfig, dict[str, Any], Fit] | None:
    """The configuration that fits with the least changed, and what was changed.

    First what changes no result: recomputing, a smaller batch with as many rows a step; then
    weights in 4 bits, then shorter rows.
    """
    for changes in _changes(config, target):
        changed = config.merged(changes)
        one = fit(shape, changed, target)
        if one.verdict != "does_not_fit":
            return changed, changes, one
    return None


def _changes(config: FineTuningConfig, target: Target) -> Iterator[dict[str, Any]]:
    lengths = [config.max_seq_length, *(n for n in LENGTHS if n < config.max_seq_length)]
    bits = [config.use_4bit, True] if target.device == "cuda" else [config.use_4bit]
    rows = config.batch_size * config.gradient_accumulation_steps
    batches = [config.batch_size]
    if target.device == "cuda":
        batches += [n for n in BATCHES[::-1] if n < config.batch_size and rows % n == 0]
    checkpointing = dict.fromkeys((config.gradient_checkpointing, True))
    tried = product(lengths, dict.fromkeys(bits), batches, checkpointing)
    for length, use_4bit, batch, recompute in tried:
        wanted = {
            "max_seq_length": length,
            "gradient_checkpointing": recompute,
            "use_4bit": use_4bit,
            "batch_size": batch,
            "gradient_accumulation_steps": rows // batch,
        }
        now = config.model_dump()
        yield {name: value for name, value in wanted.items() if now[name] != value}


def _least_bytes(setup: Setup, config: FineTuningConfig, host_free_bytes: int) -> int:
    if config.gradient_checkpointing:
        return needed_bytes(setup, host_free_bytes=host_free_bytes)
    whole = saved_layer_bytes(
        setup.shape, setup.lora, "all", tokens=setup.tokens, itemsize=setup.itemsize,
        is_fused=setup.is_fused,
    )  # fmt: skip
    return shared_bytes(setup, frozenset({"all"})) + setup.shape.num_hidden_layers * whole


def _reason(least: int, target: Target, policy: Policy) -> str:
    return (
        f"At the least {least / GIB:.1f} of {target.free_bytes / GIB:.1f} GiB are needed; "
        f"with what is left, {policy.reason}"
    )


def _around(gib: float, setup: Setup) -> Range:
    if setup.device == "cpu":
        return Range(low=gib * (1 - CPU_SPREAD), expected=gib, high=gib * (1 + CPU_SPREAD))
    slack = SLACK_SPREAD * slack_bytes(setup) / GIB
    return Range(
        low=gib * (1 - ALLOCATED_SPREAD) - slack,
        expected=gib,
        high=gib * (1 + ALLOCATED_SPREAD) + slack,
    )


def _plus(gib: Range, context: Range) -> Range:
    return Range(
        low=gib.low + context.low / GIB,
        expected=gib.expected + context.expected / GIB,
        high=gib.high + context.high / GIB,
    )
