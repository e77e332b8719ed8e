"""What a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from repotune.records.run import Policy
from repotune.records.tables import CloudOffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a probe measured on this machine; every later plan uses it."""

    device: str
    """The GPU's name, or the processor's where there is none: of what the rates are."""
    matmul_flops: float
    """Sustained by matmuls of the run's precision, FLOP a second."""
    bandwidth: float
    """Of the device's memory, bytes read or written a second by a copy."""
    host_to_device: float | None
    """Pinned host memory to the GPU, bytes a second; None without a GPU."""
    launch_seconds: float
    """Host time of one small operation."""
    context_bytes: int
    """What the device shows as used before the first tensor; 0 without a GPU."""
    date: str
    """ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A figure that is planned, not measured."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """One component of a peak."""

    name: str
    bytes: int
    formula: str
    """What is counted, for people."""
    source: str
    """Where the formula's numbers are from."""


Verdict: TypeAlias = Literal["fits", "tight", "does_not_fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The nearest configuration that fits, where the one asked for does not."""

    changes: dict[str, Any]
    """Field of FineTuningConfig -> value."""
    peak_vram_gib: Range
    hours: Range
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferCost:
    """What the job costs on one cloud offer."""

    offer: CloudOffer
    model: str
    """What is tuned there: that of the plan, or where a plan for a processor was not told which,
    the one for GPUs."""
    verdict: Verdict
    hours: Range
    money: Range
    """In the offer's currency."""
    sessions: int
    """Resumed sessions that the expected hours take; 1 where there is no limit."""
    weeks: int
    """Calendar weeks under the weekly limit; 1 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would need on a device, before anything is loaded."""

    verdict: Verdict
    reason: str
    """One sentence."""
    model: str
    device: str
    """The GPU's name, or the processor's."""
    on_gpu: bool
    files: int | None
    tokens: Range
    """Of the whole corpus."""
    config: dict[str, Any]
    """The configuration that was planned with, all fields of FineTuningConfig."""
    precision: Literal["bf16", "fp16", "fp32"]
    """That the run computes in; "auto" is settled."""
    policy: Policy | None
    """None if nothing fits."""
    tokens_in_flight: int
    """Of one pass through the layers."""
    memory: tuple[MemoryPart, ...]
    """The expected peak by component, the context too."""
    memory_gib: float
    """Of the device (of the host without a GPU), what a run can have of it, context included."""
    peak_vram_gib: Range
    """What the device shows: reserved by the allocator, and the context. 0 without a GPU."""
    reserved_gib: Range
    host_ram_gib: Range
    disk_gib: dict[str, Range]
    """By item; ``total`` is the sum."""
    steps: int
    tokens_per_second: Range
    hours_per_epoch: Range
    hours: Range
    """In all: loading, training and evaluation."""
    hours_by_stage: dict[str, Range]
    """``start``, ``training`` and ``evaluation``, which add up to ``hours``; empty where nothing
    fits."""
    seconds: dict[str, float]
    """Expected seconds of an optimizer step by what takes them."""
    electricity_kwh: Range | None
    """None where the device's power is not known."""
    electricity: Range | None
    """Its cost, None without a price per kWh."""
    offers: tuple[OfferCost, ...]
    nearest: Alternative | None
    notes: tuple[str, ...]
    """What is measured and what is projected, and what a name was taken to mean."""
