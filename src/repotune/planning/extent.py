"""How much a run measures of what it learned: what is planned here, stages do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LINE_TOKENS: Final = 64
"""A next line longer than this counts as not completed."""
GAP_TOKENS: Final = 96
"""Of up to four lines, which is as much as a gap has."""

CPU_CACHE_BYTES: Final = 2**30
"""Keys and values of sequences that are written on at once."""
GPU_CACHE_SHARE: Final = 0.5
"""The same, of the memory that is free then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """So much is read and written at most; a GPU has time for more."""

    sample_tokens: int
    """Of held-out code, for the loss during the training: a few seconds each time."""
    heldout_tokens: int | None
    """At the end; None: all."""
    cursors: int
    gaps: int
    prompt_tokens: int
    """Of the code around a cursor or a gap."""
    library_files: int
    library_characters: int
    """Read of each file, about."""
    human_eval: int | None
    """Tasks of ``repotune evaluate``; None: all."""
    infilling: int | None


ON_CPU: Final = Extent(
    sample_tokens=4096, heldout_tokens=30_000, cursors=30, gaps=18, prompt_tokens=448,
    library_files=24, library_characters=1_000, human_eval=24, infilling=48,
)  # fmt: skip
ON_GPU: Final = Extent(
    sample_tokens=16_384, heldout_tokens=None, cursors=150, gaps=150, prompt_tokens=4096,
    library_files=100, library_characters=8_000, human_eval=None, infilling=None,
)  # fmt: skip
