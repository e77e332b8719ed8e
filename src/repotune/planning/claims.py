"""What we say where the requirements page has a figure or a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from repotune.config import FineTuningConfig
from repotune.planning.fit import Fit, fit, peak_of, setup_of
from repotune.planning.plan import plan, with_preset
from repotune.planning.policy import GIB, needed_bytes
from repotune.planning.target import Target, gpu_target, machine_target
from repotune.planning.times import Workload
from repotune.records import (
    CloudOffer,
    Gpu,
    KnownModel,
    Machine,
    PageClaim,
    Plan,
    Preset,
    Range,
    Verdict,
)

TOKENS_PER_FILE: Final = 3_900
"""Mean of 12,933 files of real code; the page does not say what its files hold."""
FILES: Final = 10_000
DESKTOP: Final = Machine(
    platform="", python="", torch="", cpu="8 cores", cores=8, ram_bytes=64 * GIB,
    ram_free_bytes=60 * GIB, gpu=None, gpu_free_bytes=0, bf16=False,
)  # fmt: skip
"""The page's "8 cores recommended", with memory enough for CodeLlama-7B in fp32."""
LEVELS: Final = {
    "minimum": FineTuningConfig(batch_size=1, max_seq_length=1024),
    "recommended": FineTuningConfig(
        batch_size=1, max_seq_length=2048, gradient_checkpointing=False
    ),
    "best": FineTuningConfig(
        batch_size=1, max_seq_length=2048, gradient_checkpointing=False, use_4bit=False
    ),
}
"""What we make the page's three tiers mean: the job fits at all; in 4 bits without computing
anything twice; the same with weights in 16 bits."""


def workload(files: int, tokens_per_file: float = TOKENS_PER_FILE) -> Workload:
    """So many files of so many tokens each."""
    tokens = files * tokens_per_file
    return Workload(
        files=files,
        tokens=Range(low=tokens, expected=tokens, high=tokens),
        note=f"{files:,} files of {tokens_per_file:,.0f} tokens each, as given.",
    )


def our_figure(
    claim: PageClaim, model: KnownModel, *, gpus: Sequence[Gpu], presets: Sequence[Preset],
    offers: Sequence[CloudOffer],
) -> Range | None:  # fmt: skip
    """Our figure for a claim, in its unit; None where it is a verdict, or nothing is computed.

    ``vram``: from all recomputed to what the planner takes on the largest GPU that the claim names.
    """
    named = [gpu for gpu in gpus if gpu.name in claim.subject.get("gpus", ())]
    match claim.topic:
        case "vram":
            return _vram(claim, model, named)
        case "time" if claim.unit == "times":
            return _times_slower(claim, model, named, presets)
        case "preset" | "time":
            plans = _plans(claim, model, named, presets)
            return _union([one.hours for one in plans])
        case "ram":
            return _plan_on(gpu_target(gpus[0]), model, FineTuningConfig(), FILES).host_ram_gib
        case "disk":
            plan_ = _plan_on(gpu_target(gpus[0]), model, FineTuningConfig(), FILES)
            return plan_.disk_gib[claim.subject["item"]]
        case "tier" if claim.unit == "GiB":
            return _exactly(_smallest(LEVELS[claim.subject["tier"]], model, gpus))
        case "cloud":
            return _exactly(_offered(claim, offers))
    return None


def our_verdict(
    claim: PageClaim, model: KnownModel, *, gpus: Sequence[Gpu], presets: Sequence[Preset]
) -> Verdict | None:
    """Of a GPU that the page judges, with its preset; None for other claims."""
    if claim.topic != "gpu":
        return None
    gpu = next(gpu for gpu in gpus if gpu.name == claim.subject["gpus"][0])
    return fit(model.shape, _configured(gpu, presets), gpu_target(gpu)).verdict


def agrees(claim: PageClaim, ours: Range) -> bool:
    """Whether what we expect lies within the page's range, give or take its rounding (5 %)."""
    assert claim.low is not None
    high = claim.low if claim.high is None else claim.high
    return claim.low * 0.95 <= ours.expected <= high * 1.05


def _vram(claim: PageClaim, model: KnownModel, named: Sequence[Gpu]) -> Range:
    config = FineTuningConfig(
        batch_size=claim.subject["batch_size"],
        max_seq_length=claim.subject["max_seq_length"],
        use_4bit=claim.subject["use_4bit"],
    )
    targets = [gpu_target(gpu) for gpu in named]
    peaks = [_asked_for(fit(model.shape, config, target), target) for target in targets]
    least = needed_bytes(setup_of(model.shape, config, targets[0])) / GIB
    least += targets[0].context.low / GIB
    return Range(low=least, expected=peaks[0].expected, high=max(peak.high for peak in peaks))


def _asked_for(one: Fit, target: Target) -> Range:
    """The peak without the 16-bit copies of weights, which only fill what nothing else asks for."""
    if one.policy is None:
        return one.peak
    layers = tuple(replace(layer, expanded=False) for layer in one.policy.layers)
    return peak_of(one.setup, replace(one.policy, layers=layers), target.context)


def _plans(
    claim: PageClaim, model: KnownModel, named: Sequence[Gpu], presets: Sequence[Preset]
) -> list[Plan]:
    files = claim.subject["files"]
    if not named:
        return [_plan_on(machine_target(DESKTOP, None, None), model, FineTuningConfig(), files)]
    return [_plan_on(gpu_target(gpu), model, _configured(gpu, presets), files) for gpu in named]


def _times_slower(
    claim: PageClaim, model: KnownModel, named: Sequence[Gpu], presets: Sequence[Preset]
) -> Range:
    """The desktop's hours over those of the GPU."""
    files = claim.subject["files"]
    desktop = machine_target(DESKTOP, None, None)
    slow = _plan_on(desktop, model, FineTuningConfig(), files).hours
    fast = _union([one.hours for one in _plans(claim, model, named, presets)])
    return Range(
        low=slow.low / fast.high, expected=slow.expected / fast.expected, high=slow.high / fast.low
    )


def _plan_on(target: Target, model: KnownModel, config: FineTuningConfig, files: int) -> Plan:
    return plan(
        model=model.name,
        shape=model.shape,
        download_bytes=model.download_bytes,
        target=target,
        config=config,
        workload=workload(files),
    )


def _configured(gpu: Gpu, presets: Sequence[Preset]) -> FineTuningConfig:
    preset = next((one for one in presets if one.gpu == gpu.name), None)
    config = FineTuningConfig()
    return config if preset is None else with_preset(config, preset)


def _smallest(config: FineTuningConfig, model: KnownModel, gpus: Sequence[Gpu]) -> float:
    """GB of the smallest card sold on which ``config`` fits."""
    return min(
        gpu.memory_gb
        for gpu in gpus
        if fit(model.shape, config, gpu_target(gpu)).verdict != "does_not_fit"
    )


def _offered(claim: PageClaim, offers: Sequence[CloudOffer]) -> float:
    offer = next(
        one
        for one in offers
        if one.provider == claim.subject["provider"] and one.gpu in claim.subject["gpus"]
    )
    if claim.unit == "hours/week":
        assert offer.weekly_limit_hours is not None
        return offer.weekly_limit_hours
    return offer.price


def _union(ranges: Sequence[Range]) -> Range:
    return Range(
        low=min(one.low for one in ranges),
        expected=sum(one.expected for one in ranges) / len(ranges),
        high=max(one.high for one in ranges),
    )


def _exactly(value: float) -> Range:
    return Range(low=value, expected=value, high=value)
