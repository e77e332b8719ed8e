"""What was found and measured on a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Finding: TypeAlias = Literal["ok", "tight", "missing", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of what ``doctor`` says of a machine."""

    key: str
    label: str
    value: str
    """As found."""
    needed: str
    """The floor that decides the finding, empty where nothing is asked for."""
    page: tuple[str, str, str]
    """What the requirements page asks for: minimum, recommended, best; empty if nothing."""
    finding: Finding
    reason: str
    """One sentence, empty where all is well."""
    fix: str | None
    """One command for this system that mends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Whether the main job would start on this machine."""

    checks: tuple[Check, ...]
    model: str
    """That the main job would tune here."""
    starts: bool
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """What the probe of ``calibrate`` measured; it holds for this hardware, driver and PyTorch."""

    machine_id: str
    device: Literal["cpu", "cuda"]
    name: str
    """Of the GPU, or of the processor."""
    driver: str | None
    torch: str
    matmul_flops_per_second: dict[str, float]
    """Precision (bf16, fp16, fp32) -> sustained rate over the engine's shapes."""
    memory_bytes_per_second: float
    """Read and written by a copy within the device's memory."""
    host_to_device_bytes_per_second: float | None
    """From pinned memory; None without a GPU."""
    launch_seconds: float
    """Of one small operation, when many follow each other."""
    context_bytes: int
    """What the device shows as used beside the allocator's memory; 0 without a GPU."""
    probe_seconds: float
    date: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was predicted for a run and what it took, on one machine."""

    machine_id: str
    model: str
    config: dict[str, int | float | str | bool]
    """The settings that decide memory and time."""
    predicted_peak_bytes: int | None
    measured_peak_bytes: int | None
    predicted_tokens_per_second: float | None
    measured_tokens_per_second: float
    steps: int
    date: str
    """ISO 8601, UTC."""
