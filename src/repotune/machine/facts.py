"""What there is to know of a computer before a run; ``judge`` sees nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from repotune.machine.triton import TritonFault

System: TypeAlias = Literal["linux", "wsl", "windows", "macos"]
Purpose: TypeAlias = Literal["models", "cache", "runs"]
"""Downloaded models, weights quantised from them, and runs."""
DiskKind: TypeAlias = Literal["ssd", "spinning", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    used_bytes: int | None
    """None where the driver does not tell it apart (Windows)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """The GPU that a run would use."""

    name: str
    uuid: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int
    processes: tuple[GpuProcess, ...]
    """Of others than this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFacts:
    """The installed PyTorch."""

    version: str
    cuda_build: tuple[int, int] | None
    """The CUDA that it was built with, None for a build without."""
    cudnn: str | None
    architectures: tuple[str, ...]
    """``sm_86``: kernels for this GPU; ``compute_90``: code that newer GPUs can be given."""
    sees_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """Where something is going to be written."""

    purpose: Purpose
    path: str
    drive: int
    """The same for folders that share their room."""
    free_bytes: int
    kind: DiskKind


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """One computer, as it is now."""

    system: System
    system_name: str
    distribution: tuple[str, ...]
    """Of Linux: its identifier and those that it is like (``ubuntu``, ``debian``)."""
    executable: str
    """The Python that runs."""
    python: tuple[int, int, int]
    cpu: str
    cores: int
    ram_bytes: int
    ram_free_bytes: int
    torch: TorchFacts | None
    torch_error: str
    """Why there is no ``torch``."""
    cpu_bf16: bool
    """Whether bf16 matmuls are faster than fp32 ones on the CPU."""
    nvidia_hardware: bool
    """Whether the system lists a card of NVIDIA's, with a driver or without."""
    driver: str | None
    """The NVIDIA driver's version, None where no driver answers."""
    gpu: GpuFacts | None
    disks: tuple[DiskFacts, ...]
    bitsandbytes: str | None
    triton: str | None
    triton_fault: TritonFault | None = None
    """None if nothing is known to keep it from working."""

    @property
    def has_triton(self) -> bool:
        """Whether there is one that works."""
        return self.triton is not None and self.triton_fault is None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNeeds:
    """What the main job asks of a machine; the caller takes it from the planner and the tables."""

    model: str
    on_gpu: bool
    vram_bytes: int
    """The least that any configuration of the job can do with, 0 without a GPU."""
    ram_bytes: int
    """Free memory of the host."""
    model_disk_bytes: int
    """Still to be downloaded, 0 if the model is there."""
    cache_disk_bytes: int
    """Weights in 4 bits still to be kept for later runs, 0 where there are none."""
    run_disk_bytes: int
    """Corpus, rows, checkpoints and adapter of one run."""
    smaller_model: str
    """What to take where the GPU is too small for ``model``."""
    model_error: str = ""
    """Why the model cannot be had, if it cannot."""
