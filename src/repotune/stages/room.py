"""Before the work: has the disk room for what a run will write."""

from __future__ import annotations

from typing import Final

from repotune.errors import DiskFull
from repotune.events import Emit, Notice
from repotune.job import Job, quantised_folder
from repotune.machine import drive, free_bytes
from repotune.model import QuantisedLayers
from repotune.planning import lora_parameters, weight_bytes
from repotune.planning.plan import ADAPTER_BYTES, CHECKPOINT_BYTES, CHECKPOINTS
from repotune.runs import RunFolder

LOGS_BYTES: Final = 64 * 2**20
"""More than the metrics of a long run take."""


def check_room(folder: RunFolder, job: Job, emit: Emit) -> bool:
    """Whether there is room to keep the 4-bit weights for later runs, which is said if not.

    Raises DiskFull, with numbers, unless checkpoints and adapter fit. Corpus and rows are not
    counted: they are written first, and say so themselves where the disk is full.
    """
    numbers = lora_parameters(job.shape, job.lora)
    run = numbers * round(CHECKPOINTS.high * CHECKPOINT_BYTES + ADAPTER_BYTES) + LOGS_BYTES
    there = sum(path.stat().st_size for path in folder.checkpoints.rglob("*") if path.is_file())
    need, free = max(0, run - there), free_bytes(folder.path)
    if need > free:
        raise DiskFull(
            f"The run will write {need / 1e9:.1f} GB in {folder.path}, and {free / 1e9:.1f} GB are "
            f"free on that disk: free {(need - free) / 1e9:.1f} GB more, for instance by deleting "
            "runs that are no longer needed, and go on with --resume, or choose another disk with "
            "-o."
        )
    return not job.use_4bit or _is_room_to_keep(folder, job, need, emit)


def _is_room_to_keep(folder: RunFolder, job: Job, run_bytes: int, emit: Emit) -> bool:
    cache, layers = quantised_folder(job.base, job.precision), job.shape.num_hidden_layers
    kept = QuantisedLayers(cache, emit)
    kept.remove_unused()
    missing = layers - kept.count()
    need, free = weight_bytes(job.setup) * missing // layers, free_bytes(cache)
    if drive(cache) == drive(folder.path):
        free -= run_bytes
    if need <= free:
        return True
    emit(
        Notice(
            message="The model's 4-bit weights are not kept for later runs, which will make them "
            f"again: they take {need / 1e9:.1f} GB in {cache}, and beside what the run writes "
            f"{free / 1e9:.1f} GB are free there."
        )
    )
    return False
