"""Before the work: has the disk room for what a run will write."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from repotune.errors import DiskFull
from repotune.job import Job, quantised_folder
from repotune.machine import drive, free_bytes
from repotune.planning import lora_parameters, weight_bytes
from repotune.planning.plan import ADAPTER_BYTES, CHECKPOINT_BYTES, CHECKPOINTS
from repotune.runs import RunFolder

LOGS_BYTES: Final = 64 * 2**20
"""More than the metrics of a long run take."""


def check_room(folder: RunFolder, job: Job) -> None:
    """Raise DiskFull, with numbers, unless checkpoints, adapter and 4-bit weights fit.

    Corpus and rows are not counted: they are written first, and say so themselves where the disk
    is full.
    """
    numbers = lora_parameters(job.shape, job.lora)
    run = numbers * round(CHECKPOINTS.high * CHECKPOINT_BYTES + ADAPTER_BYTES) + LOGS_BYTES
    there = sum(path.stat().st_size for path in folder.checkpoints.rglob("*") if path.is_file())
    needs = {folder.path: max(0, run - there)}
    cache = quantised_folder(job.base, job.precision)
    if job.use_4bit and not cache.exists():
        needs[cache] = weight_bytes(job.setup)
    for disk, paths in _by_disk(needs).items():
        need, free = sum(needs[path] for path in paths), free_bytes(disk)
        if need > free:
            items = " and ".join(f"{needs[path] / 1e9:.1f} GB in {path}" for path in paths)
            raise DiskFull(
                f"The run will write {items}, and {free / 1e9:.1f} GB are free on that disk: free "
                f"{(need - free) / 1e9:.1f} GB more, for instance by deleting runs that are "
                "no longer needed, and go on with --resume, or choose another disk with -o."
            )


def _by_disk(needs: dict[Path, int]) -> dict[Path, list[Path]]:
    """The paths that lie on one disk together, under one of them."""
    disks: dict[int, list[Path]] = {}
    for path in needs:
        disks.setdefault(drive(path), []).append(path)
    return {paths[0]: paths for paths in disks.values()}
