"""Computers that nobody has to own."""

from dataclasses import replace
from typing import Any

from repotune.machine import judge
from repotune.machine.facts import DiskFacts, GpuFacts, JobNeeds, MachineFacts, TorchFacts
from repotune.records import Check

GIB = 2**30

CUDA_13 = TorchFacts(
    version="2.13.0+cu130",
    cuda_build=(13, 0),
    cudnn="9.20.0",
    architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"),
    sees_gpu=True,
)
CUDA_12 = replace(
    CUDA_13,
    version="2.13.0+cu126",
    cuda_build=(12, 6),
    architectures=("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
)
CPU_ONLY = TorchFacts(
    version="2.13.0+cpu", cuda_build=None, cudnn=None, architectures=(), sees_gpu=False
)


def gpu(name: str, capability: tuple[int, int], gib: float, **changes: Any) -> GpuFacts:
    facts = GpuFacts(
        name=name,
        uuid="GPU-1",
        compute_capability=capability,
        memory_bytes=int(gib * GIB),
        free_bytes=int((gib - 0.5) * GIB),
        processes=(),
    )
    return replace(facts, **changes)


RTX_3060 = gpu("NVIDIA GeForce RTX 3060", (8, 6), 12)
V100 = gpu("Tesla V100-SXM2-16GB", (7, 0), 16)
P100 = gpu("Tesla P100-PCIE-16GB", (6, 0), 16)
K80 = gpu("Tesla K80", (3, 7), 11)
RTX_5090 = gpu("NVIDIA GeForce RTX 5090", (12, 0), 31)

HEALTHY = MachineFacts(
    system="linux",
    system_name="Ubuntu 24.04, Linux 6.8.0",
    distribution=("ubuntu", "debian"),
    executable="/home/me/.venv/bin/python",
    python=(3, 12, 4),
    cpu="AMD Ryzen 9 7950X",
    cores=16,
    ram_bytes=64 * GIB,
    ram_free_bytes=50 * GIB,
    torch=CUDA_13,
    torch_error="",
    cpu_bf16=True,
    nvidia_hardware=True,
    driver="580.65.06",
    gpu=RTX_3060,
    disks=(
        DiskFacts(
            purpose="models", path="/home/me/.cache/hub", drive=1, free_bytes=300 * 10**9,
            kind="ssd",
        ),
        DiskFacts(
            purpose="cache", path="/home/me/.cache/repotune", drive=1, free_bytes=300 * 10**9,
            kind="ssd",
        ),
        DiskFacts(
            purpose="runs", path="/data/code", drive=2, free_bytes=300 * 10**9, kind="ssd"
        ),
    ),
    bitsandbytes=None,
    triton="3.7.0",
)  # fmt: skip
WINDOWS = replace(
    HEALTHY,
    system="windows",
    system_name="Windows 11",
    distribution=("",),
    executable=r"C:\code\.venv\Scripts\python.exe",
)
WITHOUT_GPU = replace(
    HEALTHY, torch=CPU_ONLY, gpu=None, driver=None, nvidia_hardware=False, triton=None
)

CODE_LLAMA = JobNeeds(
    model="codellama/CodeLlama-7b-hf",
    on_gpu=True,
    vram_bytes=int(4.9 * GIB),
    ram_bytes=4 * GIB,
    model_disk_bytes=13_500_000_000,
    cache_disk_bytes=3_300_000_000,
    run_disk_bytes=3_000_000_000,
    smaller_model="Qwen/Qwen2.5-Coder-1.5B",
)
STARTER = JobNeeds(
    model="starter",
    on_gpu=False,
    vram_bytes=0,
    ram_bytes=2 * GIB,
    model_disk_bytes=0,
    cache_disk_bytes=0,
    run_disk_bytes=10**9,
    smaller_model="starter",
)


def missing(facts: MachineFacts, needs: JobNeeds = CODE_LLAMA) -> dict[str, Check]:
    """The lines that stop the main job."""
    return {one.key: one for one in judge(facts, needs) if one.finding == "missing"}


def line(facts: MachineFacts, key: str, needs: JobNeeds = CODE_LLAMA) -> Check:
    return next(one for one in judge(facts, needs) if one.key == key)
