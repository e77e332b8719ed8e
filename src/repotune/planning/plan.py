"""``plan``: all that can be known of a run before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final, Literal

from repotune.config import FineTuningConfig
from repotune.planning.cost import CPU_WATTS, board_watts, electricity_kwh, scaled
from repotune.planning.duration import duration
from repotune.planning.fit import (
    LENGTHS,
    Fit,
    fastest,
    fit,
    lora_of,
    nearest,
)
from repotune.planning.memory import offloaded_bytes, weight_bytes
from repotune.planning.plain_stack import PlainRun, plain_stack_peak
from repotune.planning.policy import GIB, USABLE, needed_bytes
from repotune.planning.setup import (
    Setup,
    lora_parameters,
    packed_documents,
)
from repotune.planning.target import Target
from repotune.planning.times import Workload, run_times
from repotune.records import (
    Alternative,
    MemoryPart,
    OfferCost,
    Plan,
    Preset,
    Range,
    Shape,
)
from repotune.tables import find_preset

HOST_GIB: Final = Range(low=1.5, expected=2.5, high=4.5)
"""Python, PyTorch with its CUDA libraries, one tensor at a time on its way to the GPU."""
CPU_HOST_GIB: Final = Range(low=0.4, expected=0.6, high=1.2)
CORPUS_SHARE: Final = Range(low=0.3, expected=1.0, high=3.0)
"""Of the tree's bytes, held in memory while it is read and packed."""
CHECKPOINTS: Final = Range(low=1, expected=3, high=4)
"""Kept are the best and the newest two; the next one is there before the oldest goes."""
CHECKPOINT_BYTES: Final = 12
"""Per LoRA parameter: fp32 weight and Adam's two moments."""
ADAPTER_BYTES: Final = 4
FP32_BYTES: Final = 4
PRESET_MODELS: Final = "codellama/CodeLlama-7b-"
UNIT: Final = Range(low=1, expected=1, high=1)
NOT_COUNTED: Final = (
    "The time counts neither downloads nor a rehearsal, nor the programming tasks, which only "
    "`repotune evaluate` runs."
)
DOCUMENTS_SHARE: Final = Range(low=0.15, expected=0.3, high=0.5)
"""Of the texts' bytes, compressed by zstd."""


def plan(
    *, model: str, shape: Shape, download_bytes: int, target: Target, config: FineTuningConfig,
    workload: Workload, price_per_kwh: float | None = None,
    offers: Sequence[OfferCost] = (), notes: Sequence[str] = (),
) -> Plan:  # fmt: skip
    """What a run of ``config`` needs on ``target``, and whether it has it.

    ``download_bytes`` is what has to be fetched, 0 for a model that is there. A configuration that
    does not fit is planned as the nearest that does, for its time; without a GPU, weights stay in
    16 or 32 bits whatever it says. Raises UsageError only for a device whose speed nobody knows.
    """
    if target.device == "cpu":
        config = config.merged({"use_4bit": False})
    one = fit(shape, config, target)
    other = nearest(shape, target, config) if one.verdict == "does_not_fit" else None
    planned, fitting = (config, one) if other is None else (other[0], other[2])
    times = None
    if fitting.policy is not None:
        times = run_times(shape, planned, fitting, target, workload)
    hours = times.hours if times else _nothing()
    power = CPU_WATTS if target.device == "cpu" else target.gpu and board_watts(target.gpu.power_w)
    kwh = electricity_kwh(power, hours) if power else None
    return Plan(
        verdict=one.verdict,
        reason=one.reason,
        model=model,
        device=target.name,
        on_gpu=target.device == "cuda",
        files=workload.files,
        tokens=workload.tokens,
        config=config.model_dump(mode="json"),
        precision=_precision(one, config, target),
        policy=one.policy,
        tokens_in_flight=one.setup.tokens,
        memory=_with_context(one, target),
        memory_gib=(target.free_bytes + target.context.expected) / GIB,
        peak_vram_gib=one.peak if target.device == "cuda" else _nothing(),
        reserved_gib=one.reserved,
        host_ram_gib=host_ram(fitting, target, workload),
        disk_gib=disk(fitting.setup, download_bytes, workload),
        steps=times.steps if times else 0,
        tokens_per_second=times.tokens_per_second if times else _nothing(),
        hours_per_epoch=times.hours_per_epoch if times else _nothing(),
        hours=hours,
        hours_by_stage=times.stages if times else {},
        seconds=times.seconds if times else {},
        electricity_kwh=kwh,
        electricity=None if kwh is None or price_per_kwh is None else scaled(kwh, price_per_kwh),
        offers=tuple(offers),
        nearest=None if other is None else _alternative(other[1], other[2], hours, target),
        notes=(
            workload.note,
            _provenance(target),
            NOT_COUNTED,
            *_plain_stack(one, config, target),
            *notes,
        ),
    )


def host_ram(one: Fit, target: Target, workload: Workload) -> Range:
    """GiB of the host: the program, the corpus, and what is offloaded; on a CPU everything."""
    corpus = scaled(CORPUS_SHARE, workload.bytes.expected / GIB)
    base = CPU_HOST_GIB if target.device == "cpu" else HOST_GIB
    other = one.reserved if target.device == "cpu" else scaled(UNIT, _offloaded_gib(one))
    return Range(
        low=base.low + corpus.low + other.low,
        expected=base.expected + corpus.expected + other.expected,
        high=base.high + corpus.high + other.high,
    )


def disk(setup: Setup, download_bytes: int, workload: Workload) -> dict[str, Range]:
    """GiB by item."""
    lora = lora_parameters(setup.shape, setup.lora) / GIB
    per_id = 2 if setup.shape.vocab_size <= 65_535 else 4
    texts, ids = workload.bytes, scaled(workload.tokens, per_id / GIB)
    corpus = Range(
        low=texts.low * DOCUMENTS_SHARE.low / GIB + ids.low,
        expected=texts.expected * DOCUMENTS_SHARE.expected / GIB + ids.expected,
        high=texts.high * DOCUMENTS_SHARE.high / GIB + ids.high,
    )
    items = {
        "download": scaled(UNIT, download_bytes / GIB),
        "quantised_weights": (
            scaled(UNIT, weight_bytes(setup) / GIB) if setup.use_4bit else _nothing()
        ),
        "checkpoints": scaled(CHECKPOINTS, lora * CHECKPOINT_BYTES),
        "adapter": scaled(UNIT, lora * ADAPTER_BYTES),
        "corpus": corpus,
    }
    items["total"] = Range(
        low=sum(item.low for item in items.values()),
        expected=sum(item.expected for item in items.values()),
        high=sum(item.high for item in items.values()),
    )
    return items


def chosen_config(
    shape: Shape, target: Target, base: FineTuningConfig, preset: Preset | None
) -> FineTuningConfig:
    """``base`` with the settings that suit a device: its preset if the model fits with it, else the
    planner's choice, else what is nearest to the preset or ``base``. Without a GPU, ``base``."""
    if target.device == "cpu":
        return base
    if preset is not None:
        config = with_preset(base, preset)
        if fit(shape, config, target).verdict == "fits":
            return config
    if (found := fastest(shape, target, base)) is not None:
        return found
    asked = base if preset is None else with_preset(base, preset)
    # What fits with little to spare is better than what does not.
    other = nearest(shape, target, asked)
    return asked if other is None else other[0]


def suited_config(
    model: str, shape: Shape, target: Target, base: FineTuningConfig
) -> FineTuningConfig:
    """``chosen_config`` with the preset of the target's GPU, where it is for ``model``.

    Presets are for CodeLlama-7B; what suits another model the planner finds.
    """
    is_theirs = target.gpu is not None and model.startswith(PRESET_MODELS)
    preset = find_preset(target.gpu.name) if target.gpu and is_theirs else None
    return chosen_config(shape, target, base, preset)


def least_gpu_bytes(
    shape: Shape, *, context_bytes: int, host_free_bytes: int, plain: bool = False
) -> int:
    """GPU memory that must be free for ``tune`` to find settings that fit, its context included.

    The planner's own least, at one row of the shortest length that it tries, 4-bit weights, and
    what the host has room for in the host's memory; over the share that a run may use. ``plain``:
    without the fused operations.
    """
    config = FineTuningConfig(batch_size=1, max_seq_length=LENGTHS[-1])
    setup = Setup(
        shape=shape, lora=lora_of(config), tokens=LENGTHS[-1], itemsize=2, device="cuda",
        use_4bit=True, documents=packed_documents(LENGTHS[-1], 1), plain=plain,
    )  # fmt: skip
    least = needed_bytes(setup, host_free_bytes=host_free_bytes)
    return ceil(least / USABLE["cuda"]) + context_bytes


def with_preset(config: FineTuningConfig, preset: Preset) -> FineTuningConfig:
    """``config`` with the four settings of a preset."""
    return config.merged(
        {
            "batch_size": preset.batch_size,
            "gradient_accumulation_steps": preset.gradient_accumulation_steps,
            "max_seq_length": preset.max_seq_length,
            "use_4bit": preset.use_4bit,
        }
    )


def _precision(
    one: Fit, config: FineTuningConfig, target: Target
) -> Literal["bf16", "fp16", "fp32"]:
    if config.precision != "auto":
        return config.precision
    if one.setup.itemsize == FP32_BYTES:
        return "fp32"
    return "bf16" if target.bf16 else "fp16"


def _alternative(changes: dict[str, object], one: Fit, hours: Range, target: Target) -> Alternative:
    said = ", ".join(f"{name} = {str(value).lower()}" for name, value in changes.items())
    return Alternative(
        changes=changes,
        peak_vram_gib=one.peak if target.device == "cuda" else _nothing(),
        hours=hours,
        reason=f"It fits with {said}, and takes {duration(hours)}. {one.reason}",
    )


def _with_context(one: Fit, target: Target) -> tuple[MemoryPart, ...]:
    if not one.parts or target.device == "cpu":
        return one.parts
    measured = "measured on this machine" if target.context.low == target.context.high else "H100"
    context = MemoryPart(
        name="CUDA context",
        bytes=round(target.context.expected),
        formula="250 MiB + 4 MiB a multiprocessor",
        source=measured,
    )
    return (*one.parts, context)


def _provenance(target: Target) -> str:
    if target.rates.measured:
        return (
            "The rates of this machine are measured (`repotune calibrate`); memory, hours and "
            "costs are computed from them."
        )
    where = "of this machine" if target.here else "of a GPU that is not here"
    return (
        f"Nothing {where} is measured: rates are projected from data sheets, so the time may be "
        "1.6 times shorter or longer; `repotune calibrate` on the machine narrows it."
    )


def _plain_stack(one: Fit, config: FineTuningConfig, target: Target) -> tuple[str, ...]:
    """What people run today, at the same settings, for comparison; on a GPU only."""
    if target.device == "cpu":
        return ()
    run = PlainRun(
        tokens=one.setup.tokens,
        use_4bit=config.use_4bit,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    gib = plain_stack_peak(one.setup.shape, one.setup.lora, run) / GIB
    gib += target.context.expected / GIB
    has = (target.free_bytes + target.context.expected) / GIB
    return (
        f"Plain transformers + peft + bitsandbytes would take {gib:.1f} GiB at these settings, "
        f"{'which fits' if gib < has else 'which does not fit'}.",
    )


def _offloaded_gib(one: Fit) -> float:
    return 0.0 if one.policy is None else offloaded_bytes(one.setup, one.policy) / GIB


def _nothing() -> Range:
    return Range(low=0.0, expected=0.0, high=0.0)
