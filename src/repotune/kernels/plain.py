"""Norm, rotary positions and SwiGLU in plain PyTorch, forward and backward.

Shapes: T tokens, D width, I width of the MLP, N heads, h half of a head's width.
Outputs that feed a linear are written into a buffer the caller gives (a view of the linear's
padded input), which saves a copy of every activation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x_TD: Tensor, w_D: Tensor, eps: float, out_TD: Tensor) -> Tensor:
    """Write ``x / rms(x) * w`` into ``out`` (arXiv 1910.07467); return ``1 / rms(x)``, [T, 1] fp32.

    Statistics are in fp32, the product with ``w`` in x's precision, as in Llama.
    """
    x = x_TD.float()
    rstd_T1 = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    out_TD.copy_(x * rstd_T1).mul_(w_D)
    return rstd_T1


def rms_norm_backward(dy_TD: Tensor, x_TD: Tensor, w_D: Tensor, rstd_T1: Tensor) -> Tensor:
    """Gradient of ``rms_norm`` with respect to x, in x's precision.

    With n = x * rstd and g = dy * w: dx = rstd * (g - n * mean(g * n)).
    """
    g_TD = dy_TD.float() * w_D
    n_TD = x_TD * rstd_T1
    mean_T1 = (g_TD * n_TD).mean(-1, keepdim=True)
    return g_TD.addcmul_(n_TD, mean_T1, value=-1.0).mul_(rstd_T1).to(x_TD.dtype)


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


def swiglu_backward(dy_TI: Tensor, gu_T2I: Tensor) -> Tensor:
    """Gradient of ``swiglu`` with respect to ``gu``, [T, 2I]."""
    gate_TI, up_TI = gu_T2I.chunk(2, dim=-1)
    out_T2I = torch.empty_like(gu_T2I)
    dgate_TI, dup_TI = out_T2I.chunk(2, dim=-1)
    torch.mul(functional.silu(gate_TI), dy_TI, out=dup_TI)
    torch.ops.aten.silu_backward.grad_input(dy_TI * up_TI, gate_TI, grad_input=dgate_TI)
    return out_T2I
