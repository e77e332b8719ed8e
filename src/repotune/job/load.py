"""The model of a job, and where its 4-bit weights are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repotune.events import Emit, Notice
from repotune.job.settled import Job
from repotune.records import ModelRef

if TYPE_CHECKING:
    from repotune.model import Decoder


def load_decoder(job: Job, emit: Emit, *, keep_quantised: bool = True) -> Decoder:
    """The base model with a fresh adapter, on the job's device.

    ``keep_quantised``: 4-bit weights that are made are kept on disk for later runs.
    """
    import torch

    from repotune.kernels import fastest_ops
    from repotune.machine import cap_gpu
    from repotune.model import Decoder, QuantisedLayers

    if job.machine.gpu:
        cap_gpu()
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    dtype = dtypes[job.precision]
    ops, note = fastest_ops(torch.device(job.device), dtype, deterministic=job.config.deterministic)
    if note is not None:
        emit(Notice(message=note))
    quantised = quantised_folder(job.base, job.precision)
    return Decoder(
        job.weights(),
        lora=job.lora,
        dtype=dtype,
        device=job.device,
        seed=job.config.seed,
        ops=ops,
        use_4bit=job.use_4bit,
        quantised=QuantisedLayers(quantised, emit, keeps=keep_quantised),
    )


def quantised_folder(base: ModelRef, precision: str) -> Path:
    """Where the 4-bit weights made from ``base`` in ``precision`` are kept for later runs."""
    from repotune.machine import cache_folder
    from repotune.model import QuantisedLayers, weights_id

    return cache_folder() / "nf4" / QuantisedLayers.folder_name(weights_id(base), precision)
