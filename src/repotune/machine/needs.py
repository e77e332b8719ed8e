"""What the main job asks of a machine's memory beside the GPU's."""

from __future__ import annotations

from typing import Final

CPU_RAM_BYTES: Final = 2 * 2**30
"""The starter trains in 1.0 to 1.5 GiB at 512 to 2,048 tokens, libraries included."""
GPU_RAM_BYTES: Final = 4 * 2**30
"""Weights go to the GPU tensor by tensor; the CUDA libraries and the corpus take the rest."""
