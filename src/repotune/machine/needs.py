"""What the main job asks of a machine beside GPU memory, which only the planner knows."""

from __future__ import annotations

from typing import Final

from repotune.machine.facts import JobNeeds
from repotune.tables import known_model

CPU_RAM_BYTES: Final = 2 * 2**30
"""The starter trains in 1.0 to 1.5 GiB at 512 to 2,048 tokens, libraries included."""
GPU_RAM_BYTES: Final = 4 * 2**30
"""Weights go to the GPU tensor by tensor; the CUDA libraries and the corpus take the rest."""
CPU_RUN_BYTES: Final = 10**9
GPU_RUN_BYTES: Final = 3 * 10**9
"""A checkpoint of CodeLlama 7B is 0.5 GB (LoRA of 40 M, with Adam's moments), two or three are
kept at a time; adapter, corpus and rows stay below 1 GB for 10,000 files."""


def main_job(
    model: str, *, on_gpu: bool, vram_bytes: int, is_here: bool, model_error: str = ""
) -> JobNeeds:
    """The needs of tuning ``model`` with the default settings; ``is_here``: it is on this disk."""
    known = known_model(model)
    download = known.download_bytes if known and on_gpu and not is_here else 0
    return JobNeeds(
        model=model,
        on_gpu=on_gpu,
        vram_bytes=vram_bytes if on_gpu else 0,
        ram_bytes=GPU_RAM_BYTES if on_gpu else CPU_RAM_BYTES,
        model_disk_bytes=download,
        run_disk_bytes=GPU_RUN_BYTES if on_gpu else CPU_RUN_BYTES,
        model_error=model_error,
    )
