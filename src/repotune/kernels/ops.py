"""``Ops``: one field per operation, so that a model can be built on another table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from repotune.kernels import cross_entropy, nf4, plain
from repotune.kernels.attention import Attended, Documents, attention, attention_backward
from repotune.kernels.buffers import Buffers
from repotune.kernels.heads import Heads, rotate, rotate_back
from repotune.kernels.sdpa import sdpa_attention, sdpa_attention_backward


class RmsNorm(Protocol):
    """See ``plain.rms_norm``."""

    def __call__(
        self, x_TD: Tensor, w_D: Tensor, eps: float, out_TD: Tensor, *,
        add: Tensor | None = None, total: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Write the normed x, return 1 / rms."""
        ...


class CrossEntropy(Protocol):
    """See ``cross_entropy.cross_entropy``."""

    def __call__(
        self, x_TD: Tensor, head_VD: Tensor, labels_T: Tensor, *, scale: Tensor, dx: Tensor,
        buffers: Buffers, rows: cross_entropy.HeadRows | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the sum of losses, write its gradient."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ops:
    """Forward and backward of what stands between the linears; see ``plain.py`` for the shapes."""

    is_recordable: bool
    """Whether a pass makes the same launches for all rows of a size, and waits for none of them."""
    rotates_in_place: bool
    """Whether q, k and v are views of the stack's output, which then has to be kept."""
    rms_norm: RmsNorm
    rms_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    rotate: Callable[[Tensor, Tensor, Tensor, Heads, Buffers], tuple[Tensor, Tensor, Tensor]]
    rotate_back: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Heads, Tensor], None]
    swiglu: Callable[[Tensor, Tensor], None]
    swiglu_backward: Callable[[Tensor, Tensor], None]
    attention: Callable[[Tensor, Tensor, Tensor, Documents, Tensor], Attended]
    attention_backward: Callable[
        [Tensor, Tensor, Tensor, Tensor, Attended, Documents], tuple[Tensor, Tensor, Tensor]
    ]
    cross_entropy: CrossEntropy
    token_losses: Callable[[Tensor, Tensor, Tensor, Buffers], Tensor]
    dequantise: Callable[[nf4.Nf4, Tensor], None]
    place_adapter: Callable[[Tensor, Sequence[nf4.AdapterBlock], int, Tensor], None]
    add_product: Callable[[Tensor, Tensor, Tensor, float], None]
    add_normed_product: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], None]
    adapter_gradients: Callable[[Tensor, Tensor, Tensor, Sequence[nf4.AdapterBlock], Tensor], None]
    copy_columns: Callable[[Tensor, Tensor], None]


PLAIN = Ops(
    is_recordable=False,
    rotates_in_place=False,
    rms_norm=plain.rms_norm,
    rms_norm_backward=plain.rms_norm_backward,
    rotate=rotate,
    rotate_back=rotate_back,
    swiglu=plain.swiglu,
    swiglu_backward=plain.swiglu_backward,
    attention=attention,
    attention_backward=attention_backward,
    cross_entropy=cross_entropy.cross_entropy,
    token_losses=cross_entropy.token_losses,
    dequantise=nf4.dequantise,
    place_adapter=nf4.place_adapter,
    add_product=plain.add_product,
    add_normed_product=plain.add_normed_product,
    adapter_gradients=plain.adapter_gradients,
    copy_columns=plain.copy_columns,
)
"""PyTorch operations only: every device, every precision."""

PLAIN_GPU = replace(PLAIN, attention=sdpa_attention, attention_backward=sdpa_attention_backward)
"""For GPUs without the fused table, where ``attention``'s blocks are hundreds of launches."""
