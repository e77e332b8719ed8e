"""What our decoder computes on fixed code: the measure for what another program computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Final

import torch

from repotune.export import load_adapter, passage_ids, read_by_us
from repotune.export.passages import Passage
from repotune.job import Job
from repotune.model import Decoder, tensor_shapes

SLACK: Final = 1.15
"""Over the weights themselves: activations, logits, the libraries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The fixed code as our decoder reads it."""

    passages: list[Passage]
    dtype: torch.dtype
    """That it computed in."""


def read_fixed_code(job: Job, adapter: Path | None) -> Reading | None:
    """By the base with the adapter in the folder ``adapter``, None: with one that does nothing.

    None if that takes more memory than is free, see ``bytes_to_read``. Raises RunError for an
    adapter that is damaged.
    """
    free = job.machine.ram_free_bytes
    dtypes = (torch.float32, torch.bfloat16)
    dtype = next((one for one in dtypes if bytes_to_read(job, one) < free), None)
    if dtype is None:
        return None
    # Rows of tokens that are taught begin elsewhere than the base has them.
    lora = job.lora if adapter is not None else replace(job.lora, trainable_token_indices=())
    decoder = Decoder(job.weights(), lora=lora, dtype=dtype)
    if adapter is not None:
        load_adapter(adapter, decoder.lora_state(), lora=job.lora)
        decoder.refresh()
    return Reading(passages=read_by_us(decoder, passage_ids(job.tokenizer)), dtype=dtype)


def bytes_to_read(job: Job, dtype: torch.dtype = torch.bfloat16) -> int:
    """What our decoder takes in ``dtype``; the default is the least there is."""
    numbers = sum(prod(size) for size in tensor_shapes(job.shape).values())
    return int(SLACK * dtype.itemsize * numbers)


def why_not_read(job: Job, then: str) -> str:
    """A sentence where ``read_fixed_code`` gave None; ``then`` is what to do again."""
    return (
        f"nothing was compared, since that takes {bytes_to_read(job) / 2**30:.1f} GiB of memory "
        f"and {job.machine.ram_free_bytes / 2**30:.1f} GiB is free: close other programs and "
        f"{then}."
    )
