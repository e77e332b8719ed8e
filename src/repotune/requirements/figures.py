"""The figures of the page, before anything is put into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from repotune.records import Gpu, OfferCost, PageClaim, Range, Verdict

Tier: TypeAlias = Literal["minimum", "recommended", "best"]
Level: TypeAlias = Literal["all", "attention", "outputs", "outputs_host", "moments_host", "input"]
"""What each layer saves for the backward, from most to least memory; ``_host``: it waits in the
host's memory. ``input`` on the device is what is left where the host has no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The four settings of a preset."""

    batch_size: int
    gradient_accumulation_steps: int
    max_seq_length: int
    use_4bit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFigures:
    """What one of the three tiers asks for; ``planning.claims.LEVELS`` says what a tier means."""

    tier: Tier
    settings: Settings
    gpu_gb: int | None
    """Memory of the smallest card that can do it, as sold; None if no known card can."""
    gpus: tuple[str, ...]
    """Desktop and workstation cards of that memory, and all cards if there is none of these."""
    vram_gib: Range
    """On the smallest card."""
    host_ram_gib: Range
    hours: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """A GPU, its settings and what they take."""

    gpu: Gpu
    verdict: Verdict
    settings: Settings
    """The preset, or what was tried where nothing fits."""
    from_page: bool
    vram_gib: Range
    available_gib: float
    host_ram_gib: Range
    hours: Range | None
    """None where it does not fit."""
    old_build: bool
    """Whether only PyTorch's build for CUDA 12.6 has kernels for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """Batch × length with 4-bit weights on the reference card, whatever that holds."""

    batch_size: int
    max_seq_length: int
    by_level: dict[Level, Range]
    """GiB that the device shows when every layer saves so much."""
    plain_stack_gib: float
    """Transformers, peft and bitsandbytes with checkpointing."""
    smallest_gb: int | None
    """The smallest card on which the planner says that it fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRow:
    """Hours in all by number of files."""

    device: str
    settings: Settings
    hours: dict[int, Range]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFigures:
    """Training without a GPU, on a desktop."""

    cores: int
    ram_gib: float
    """It has so much."""
    verdict: Verdict
    host_ram_gib: Range
    hours: Range | None
    """With plain fp32 units; None where it does not fit."""
    hours_bf16: Range | None
    """With units for bf16 (AMX, AVX-512)."""
    compared_with: str
    times_slower: float
    """Than that GPU, as expected."""
    starter: str
    starter_hours: Range
    """The small model on the same processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One way to less memory; each holds from where it stands on."""

    key: str
    level: Level
    settings: Settings
    lora_r: int
    vram_gib: Range
    saved_gib: float
    """Expected, against the row before; ``input`` on the GPU against ``outputs`` there."""
    host_gib: float
    """Of host memory that saved tensors take."""
    time: float
    """Seconds a token over those of the first row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallerModel:
    """The largest known code model that fits on the smallest known card."""

    gpu: str
    memory_gb: int
    model: str
    hours: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A build of PyTorch and what it asks for."""

    tag: str
    cuda: str
    driver: int
    capabilities: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """Our floors."""

    python: tuple[str, str]
    """Lowest and highest."""
    pytorch: tuple[str, str]
    builds: tuple[Build, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the old page says, and what is computed."""

    claim: PageClaim
    ours: Range | None
    verdict: Verdict | None
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where figures are from."""

    of: Literal["model", "gpus"]
    title: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """All figures of the page."""

    model: str
    parameters: int
    tokens_per_file: int
    files: int
    """Of every figure in hours that says no other number."""
    reference: str
    """The card of settings and remedies."""
    context_gib: Range
    """Of the smallest and the largest GPU known; expected: the reference card's."""
    least_free_ram_gib: float
    """That ``doctor`` asks for beside a GPU."""
    tiers: tuple[TierFigures, ...]
    disk_gib: dict[str, Range]
    disk_largest_gib: Range
    """In all for the largest number of files."""
    gpus: tuple[GpuRow, ...]
    settings: tuple[SettingRow, ...]
    times: tuple[TimeRow, ...]
    cpu: CpuFigures
    automatic: tuple[Remedy, ...]
    proposed: tuple[Remedy, ...]
    batch: Remedy
    length: Remedy
    rank: Remedy
    """The old page's remedies, each alone, at the least level."""
    smaller: SmallerModel | None
    offers: tuple[OfferCost, ...]
    software: Software
    comparisons: tuple[Comparison, ...]
    """Empty for another model than the old page's, but for what holds for every model."""
    sources: tuple[Source, ...]
    newest: dict[str, str]
    """Table -> the date of its newest row."""
    measured: str
    """What the terms of the memory model were checked against."""
