"""``Ops``: one field per operation, so that a model can be built on another table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from repotune.kernels import cross_entropy, plain
from repotune.kernels.attention import Span, attention, attention_backward
from repotune.kernels.buffers import Buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class Ops:
    """Forward and backward of what stands between the linears; see ``plain.py`` for the shapes."""

    rms_norm: Callable[[Tensor, Tensor, float, Tensor], Tensor]
    rms_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    rope: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    swiglu: Callable[[Tensor, Tensor], None]
    swiglu_backward: Callable[[Tensor, Tensor], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor, Span, Tensor], None]
    attention_backward: Callable[
        [Tensor, Tensor, Tensor, Tensor, Tensor, Span], tuple[Tensor, Tensor, Tensor]
    ]
    cross_entropy: Callable[[Tensor, Tensor, Tensor, Buffers], tuple[Tensor, Tensor]]
    token_losses: Callable[[Tensor, Tensor, Tensor, Buffers], Tensor]


PLAIN = Ops(
    rms_norm=plain.rms_norm,
    rms_norm_backward=plain.rms_norm_backward,
    rope=plain.rope,
    swiglu=plain.swiglu,
    swiglu_backward=plain.swiglu_backward,
    attention=attention,
    attention_backward=attention_backward,
    cross_entropy=cross_entropy.cross_entropy,
    token_losses=cross_entropy.token_losses,
)
"""PyTorch operations only: every device, every precision."""
