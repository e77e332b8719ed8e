"""The operations a layer is made of, as a table that the model is given.

Every operation has a plain PyTorch version (``plain.py``), which runs on any device and is the
reference for faster ones. The model calls ``ops.rotate(...)`` and never asks which table it holds.
"""

from repotune.kernels.attention import Attended, Documents
from repotune.kernels.buffers import Buffers
from repotune.kernels.cross_entropy import HeadRows
from repotune.kernels.heads import Heads
from repotune.kernels.ops import PLAIN, PLAIN_GPU, Ops
from repotune.kernels.select import fastest_ops, what_triton_says, why_not_triton, with_triton_tried

__all__ = [
    "PLAIN",
    "PLAIN_GPU",
    "Attended",
    "Buffers",
    "Documents",
    "HeadRows",
    "Heads",
    "Ops",
    "fastest_ops",
    "what_triton_says",
    "why_not_triton",
    "with_triton_tried",
]
