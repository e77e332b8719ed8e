"""Which adapter of a run is used: the exported one, or that of a checkpoint that is still kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from repotune.export import adapter_shapes, export_adapter
from repotune.job import Job
from repotune.runs import RunFolder
from repotune.training import checkpoint_path, load_lora


@contextmanager
def adapter_folder(run: RunFolder, job: Job, step: int | None) -> Iterator[Path]:
    """The run's adapter in PEFT's format; with ``step`` that checkpoint's, in a folder that goes
    when the ``with`` block is left.

    Raises RunError if there is none or it is not what the run exported, CheckpointError if the
    checkpoint is damaged.
    """
    run.refuse_no_adapter(step)
    if step is None:
        again = f"let `repotune tune --resume {run.path}` write it again"
        run.refuse_damaged(run.adapter, otherwise=again)
        yield run.adapter
        return
    # Without storage: names, shapes and types are all that is compared.
    like = {
        name: torch.empty(size, device="meta")
        for name, size in adapter_shapes(job.shape, job.lora).items()
    }
    lora = load_lora(checkpoint_path(run.checkpoints, step), like=like)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / "adapter"
        export_adapter(folder, lora, lora=job.lora, base=job.base)
        yield folder
