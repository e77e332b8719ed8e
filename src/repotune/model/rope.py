"""Rotary position tables (arXiv 2104.09864), with the stretchings that checkpoints use.

Shapes: T tokens, h half of a head's width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from repotune.records import RopeScaling, Shape


def frequencies(shape: Shape) -> Tensor:
    """Inverse frequencies [h], fp32: ``theta ** (-2 i / head_dim)``, stretched as the shape says.

    "linear" divides every frequency by the factor (arXiv 2306.15595); "llama3" divides only those
    whose wavelength is long, with a ramp between (Llama 3.1's released code).
    """
    exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    inverse = 1.0 / shape.rope_theta**exponent
    scaling = shape.rope_scaling
    if scaling is None:
        return inverse
    if scaling.kind == "linear":
        return inverse / scaling.factor
    return _llama3(inverse, scaling)


def _llama3(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    turns = scaling.original_max_position_embeddings * inverse / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return inverse * keep + inverse / scaling.factor * (1.0 - keep)


def tables(inverse_h: Tensor, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [T, 1, h] in ``dtype``, computed in fp32."""
    angle = positions_T.to(torch.float32)[:, None, None] * inverse_h
    return angle.cos().to(dtype), angle.sin().to(dtype)
