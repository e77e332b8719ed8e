"""Facts from the tables: GPUs, cloud offers, models, presets, the requirements page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from repotune.records.run import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as its maker describes it. None is "unknown" or "cannot", never a neighbour's number.

    Peaks are of dense matmuls, in 10^12 operations a second, with fp32 accumulation unless the
    name says otherwise; sparsity is not counted.
    """

    name: str
    kind: Literal["desktop", "laptop", "workstation", "datacenter"]
    architecture: str
    compute_capability: tuple[int, int]
    memory_gb: int
    """As it is sold; in truth GiB."""
    memory_bytes: int | None
    """All that CUDA reports on Linux, the least that drivers do."""
    bandwidth_gb_s: float
    bus_bits: int | None
    pin_gbps: float | None
    sm_count: int
    boost_mhz: int | None
    fp16_fp16_tflops: float | None
    """Accumulated in fp16: twice the rate of fp32 accumulation on GeForce cards."""
    fp16_tflops: float | None
    bf16_tflops: float | None
    tf32_tflops: float | None
    fp32_tflops: float
    """On the plain units, without tensor cores."""
    int8_tops: float | None
    fp8_tflops: float | None
    bf16: bool
    """Whether the hardware computes in bf16."""
    pcie_generation: int
    pcie_lanes: int
    power_w: int
    """Of the board; of a laptop the highest that makers may set."""
    only_by_full_name: bool
    """A rare variant, which a name without memory does not mean."""
    source: str
    date: str
    """Of the source, ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMatch:
    """What a GPU's name was taken to mean."""

    gpu: Gpu
    note: str | None
    """One sentence when several GPUs fit the name; None when one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOffer:
    """A machine to rent, or a notebook service, as it was on a date; prices change."""

    provider: str
    name: str
    """The provider's name of the machine or plan."""
    gpu: str
    """The name of a Gpu."""
    gpu_count: int
    host_ram_gb: float | None
    price: float
    """0 if it is free."""
    per: Literal["hour", "month"]
    currency: str
    included_hours: float | None
    """Hours on this GPU that one month's price pays for; then it has to be paid again."""
    session_limit_hours: float | None
    weekly_limit_hours: float | None
    region: str | None
    page_price: float | None
    """What the requirements page says, in the same unit, or None if it says nothing."""
    note: str | None
    source: str
    date: str

    @property
    def free(self) -> bool:
        """Whether it costs nothing."""
        return self.price == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A hub model whose shape is known without a network."""

    name: str
    shape: Shape
    parameters: int
    """As published, tied embeddings counted once."""
    download_bytes: int
    """Of the weight files."""
    licence: str
    """The hub's licence tag."""
    code: bool
    """Whether it was trained on code above all."""
    fim: bool | None
    """Whether it has tokens for filling in the middle and was trained on them; None: unknown."""
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The settings for CodeLlama-7B on a GPU."""

    gpu: str
    """The name of a Gpu."""
    batch_size: int
    gradient_accumulation_steps: int
    max_seq_length: int
    use_4bit: bool
    from_page: bool
    """Whether the requirements page says so; the others are the planner's choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageClaim:
    """A figure or a verdict of the requirements page, and why ours differs, where it does."""

    id: str
    topic: Literal["vram", "preset", "time", "gpu", "tier", "disk", "ram", "cloud", "software"]
    subject: dict[str, Any]
    """What it is about: a GPU's name, a batch size, a number of files."""
    low: float | None
    high: float | None
    unit: str
    says: str | None
    """A verdict or a name where there is no figure."""
    why: str | None
    """Why our figure is another one; None where it is not."""
