"""Norm, rotary positions and SwiGLU in plain PyTorch, forward and backward.

Shapes: T tokens, D width, I width of the MLP, N heads, h half of a head's width.
Outputs that feed a linear are written into a buffer the caller gives (a view of the linear's
padded input), which saves a copy of every activation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from repotune.kernels.nf4 import AdapterBlock


def rms_norm(
    x_TD: Tensor, w_D: Tensor, eps: float, out_TD: Tensor, *, add: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Write ``x / rms(x) * w`` into ``out`` (arXiv 1910.07467); return ``1 / rms(x)``, [T, 1] fp32.

    With ``add``, x is ``x + add``, which is written into ``total``. Statistics are in fp32, the
    product with ``w`` in x's precision, as in Llama.
    """
    if add is not None:
        assert total is not None
        x_TD = torch.add(x_TD, add, out=total)
    x = x_TD.float()
    rstd_T1 = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    out_TD.copy_(x * rstd_T1).mul_(w_D)
    return rstd_T1


def rms_norm_backward(
    dy_TD: Tensor, x_TD: Tensor, w_D: Tensor, rstd_T1: Tensor, residual_TD: Tensor, dx_TD: Tensor
) -> None:
    """Write the gradient of ``rms_norm`` with respect to x, plus ``residual``, into ``dx``.

    With n = x * rstd and g = dy * w: dx = rstd * (g - n * mean(g * n)). ``dx`` may be ``residual``.
    """
    g_TD = dy_TD.float() * w_D
    n_TD = x_TD * rstd_T1
    mean_T1 = (g_TD * n_TD).mean(-1, keepdim=True)
    dx_TD.copy_(g_TD.addcmul_(n_TD, mean_T1, value=-1.0).mul_(rstd_T1).add_(residual_TD))


def rope(x_TNH: Tensor, cos_T1h: Tensor, sin_T1h: Tensor, out_TNH: Tensor) -> None:
    """Rotate each head by its position (arXiv 2104.09864), halves paired as Hugging Face does.

    The backward is the same rotation with ``-sin``. ``out`` may have any strides, not x's memory.
    """
    h = cos_T1h.shape[-1]
    x1, x2 = x_TNH[..., :h], x_TNH[..., h:]
    torch.mul(x1, cos_T1h, out=out_TNH[..., :h]).addcmul_(x2, sin_T1h, value=-1.0)
    torch.mul(x2, cos_T1h, out=out_TNH[..., h:]).addcmul_(x1, sin_T1h)


def swiglu(gu_T2I: Tensor, out_TI: Tensor) -> None:
    """Write ``silu(gate) * up`` into ``out``; gate and up lie side by side in ``gu``."""
    gate_TI, up_TI = gu_T2I.chunk(2, dim=-1)
    torch.mul(functional.silu(gate_TI), up_TI, out=out_TI)


def swiglu_backward(dy_TI: Tensor, gu_T2I: Tensor) -> None:
    """The gradient of ``swiglu`` over ``gu``, and its output, computed again, over ``dy``."""
    gate_TI, up_TI = gu_T2I.chunk(2, dim=-1)
    silu_TI = functional.silu(gate_TI)
    dup_TI = silu_TI * dy_TI
    dy_TI.mul_(up_TI)
    torch.mul(silu_TI, up_TI, out=up_TI)  # up holds the output until dy is free
    dgate_TI = torch.ops.aten.silu_backward(dy_TI, gate_TI)
    dy_TI.copy_(up_TI)
    gate_TI.copy_(dgate_TI)
    up_TI.copy_(dup_TI)


def add_product(total: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
    """Add ``factor`` * ``left @ right`` to ``total``, which is in fp32."""
    total.add_(left @ right, alpha=factor)


def adapter_gradients(
    dy_TO: Tensor, b_OR: Tensor, tail_TR: Tensor, blocks: Sequence[AdapterBlock], g_TR: Tensor
) -> None:
    """Write g = dy B; add each module's dB = dy^T t, whose rows and columns its block names.

    ``b`` is zero outside of the blocks, of which ``values`` are the gradients, fp32.
    """
    torch.mm(dy_TO, b_OR, out=g_TR)
    for one in blocks:
        add_product(one.values, dy_TO[:, one.rows].t(), tail_TR[:, one.columns], 1.0)


def add_normed_product(
    total_RK: Tensor, g_TR: Tensor, x_TK: Tensor, rstd_T1: Tensor, w_K: Tensor, factor: float
) -> None:
    """Add ``factor`` * g^T ``rms_norm(x)`` to ``total``, fp32; the norm is not written."""
    normed_TK = (x_TK * rstd_T1).to(x_TK.dtype)
    total_RK.addcmul_(g_TR.t() @ normed_TK, w_K, value=factor)


def copy_columns(source: Tensor, out: Tensor) -> None:
    """Write ``source``, a few columns of a wide tensor, into ``out``, which is contiguous."""
    out.copy_(source)
