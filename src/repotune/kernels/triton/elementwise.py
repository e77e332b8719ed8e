"""Norm, rotary positions and SwiGLU as Triton kernels: one pass over memory each.

The plain versions beside them (``plain.py``) are their reference; names and shapes are the same.
Rows may have any stride, so that outputs land in a linear's padded input.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm(
    x_ptr, add_ptr, sum_ptr, w_ptr, out_ptr, rstd_ptr, x_stride, add_stride, sum_stride,
    out_stride, eps, D: tl.constexpr, HAS_ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADD:
        x += tl.load(add_ptr + row * add_stride + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * sum_stride + columns, rounded, mask=inside)
        x = rounded.to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(x * x) / D + eps)
    w = tl.load(w_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    normed = (x * rstd).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * out_stride + columns, normed * w, mask=inside)
    tl.store(rstd_ptr + row, rstd)


@triton.jit
def _rms_norm_backward(
    dy_ptr, x_ptr, w_ptr, rstd_ptr, residual_ptr, dx_ptr, dy_stride, x_stride, residual_stride,
    dx_stride, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    dy = tl.load(dy_ptr + row * dy_stride + columns, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + row * residual_stride + columns, mask=inside, other=0.0)
    rstd = tl.load(rstd_ptr + row)
    g, n = dy * w, x * rstd
    dx = rstd * (g - n * (tl.sum(g * n) / D)) + residual.to(tl.float32)
    tl.store(dx_ptr + row * dx_stride + columns, dx, mask=inside)


@triton.jit
def _rope(
    x_ptr, cos_ptr, sin_ptr, out_ptr, x_stride, out_stride, sign, HEADS: tl.constexpr,
    HALF: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, BLOCK_HEADS)[:, None]
    halves = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (heads < HEADS) & (halves < HALF)
    at = heads * (2 * HALF) + halves
    row = tl.arange(0, BLOCK_HALF)
    cos = tl.load(cos_ptr + token * HALF + row, mask=row < HALF, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + token * HALF + row, mask=row < HALF, other=0.0).to(tl.float32)[None, :]
    sin *= sign
    x_row = x_ptr + token * x_stride
    first = tl.load(x_row + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_row + at + HALF, mask=inside, other=0.0).to(tl.float32)
    out_row = out_ptr + token * out_stride
    tl.store(out_row + at, first * cos - second * sin, mask=inside)
    tl.store(out_row + at + HALF, second * cos + first * sin, mask=inside)


@triton.jit
def _rotated_back(
    row_ptr, out_ptr, cos, sin, heads, halves, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    inside = (heads < HEADS) & (halves < HALF)
    at = heads * (2 * HALF) + halves
    first = tl.load(row_ptr + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(row_ptr + at + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, first * cos + second * sin, mask=inside)
    tl.store(out_ptr + at + HALF, second * cos - first * sin, mask=inside)


@triton.jit
def _rotate_back(
    dq_ptr, dk_ptr, dv_ptr, out_ptr, cos_ptr, sin_ptr, q_stride, k_stride, v_stride, out_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_HEADS: tl.constexpr,
    BLOCK_KV: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    half = tl.arange(0, BLOCK_HALF)
    cos = tl.load(cos_ptr + token * HALF + half, mask=half < HALF, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * HALF + half, mask=half < HALF, other=0.0).to(tl.float32)
    cos, sin, halves = cos[None, :], sin[None, :], half[None, :]
    out_row = out_ptr + token * out_stride
    q_heads = tl.arange(0, BLOCK_HEADS)[:, None]
    _rotated_back(dq_ptr + token * q_stride, out_row, cos, sin, q_heads, halves, HEADS, HALF)
    kv_heads = tl.arange(0, BLOCK_KV)[:, None]
    out_row += HEADS * 2 * HALF
    _rotated_back(dk_ptr + token * k_stride, out_row, cos, sin, kv_heads, halves, KV_HEADS, HALF)
    out_row += KV_HEADS * 2 * HALF
    columns = tl.arange(0, BLOCK_V)
    inside = columns < KV_HEADS * 2 * HALF
    dv = tl.load(dv_ptr + token * v_stride + columns, mask=inside, other=0.0)
    tl.store(out_row + columns, dv, mask=inside)


@triton.jit
def _copy_columns(
    source_ptr, out_ptr, COUNT, COLUMNS, stride, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < COUNT
    at = number // COLUMNS * stride + number % COLUMNS
    tl.store(out_ptr + number, tl.load(source_ptr + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def _copy_rows(source_ptr, out_ptr, source_stride, out_stride, WIDTH, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    numbers = tl.load(source_ptr + row * source_stride + columns, mask=inside)
    tl.store(out_ptr + row * out_stride + columns, numbers, mask=inside)


@triton.jit
def _swiglu(gu_ptr, out_ptr, gu_stride, out_stride, WIDTH, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gu_row = gu_ptr + row * gu_stride
    gate = tl.load(gu_row + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gu_row + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * out_stride + columns, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _swiglu_backward(dy_ptr, gu_ptr, dy_stride, gu_stride, WIDTH, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gate_at = gu_ptr + row * gu_stride + columns
    dy_at = dy_ptr + row * dy_stride + columns
    gate = tl.load(gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_at + WIDTH, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_at, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(gate)
    silu = gate * s
    tl.store(gate_at, dy * up * (s + silu * (1.0 - s)), mask=inside)
    tl.store(gate_at + WIDTH, dy * silu, mask=inside)
    tl.store(dy_at, silu * up, mask=inside)


def rms_norm(
    x_TD: Tensor, w_D: Tensor, eps: float, out_TD: Tensor, *, add: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """See ``plain.rms_norm``."""
    rows, width = x_TD.shape
    rstd = torch.empty(rows, 1, dtype=torch.float32, device=x_TD.device)
    added = x_TD if add is None else add
    total = x_TD if total is None else total
    _rms_norm[(rows,)](
        x_TD, added, total, w_D, out_TD, rstd, x_TD.stride(0), added.stride(0), total.stride(0),
        out_TD.stride(0), eps, D=width, HAS_ADD=add is not None,
        BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
    )  # fmt: skip
    return rstd


def rms_norm_backward(
    dy_TD: Tensor, x_TD: Tensor, w_D: Tensor, rstd_T1: Tensor, residual_TD: Tensor, dx_TD: Tensor
) -> None:
    """See ``plain.rms_norm_backward``."""
    rows, width = x_TD.shape
    _rms_norm_backward[(rows,)](
        dy_TD, x_TD, w_D, rstd_T1, residual_TD, dx_TD, dy_TD.stride(0), x_TD.stride(0),
        residual_TD.stride(0), dx_TD.stride(0), D=width,
        BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
    )  # fmt: skip


def rope(
    x_TO: Tensor, out_TO: Tensor, cos_T1h: Tensor, sin_T1h: Tensor, heads: int, *, back: bool
) -> None:
    """Rotate each row's first ``heads`` heads into ``out``, which may be x; ``back`` undoes it."""
    half = cos_T1h.shape[-1]
    _rope[(len(x_TO),)](
        x_TO, cos_T1h, sin_T1h, out_TO, x_TO.stride(0), out_TO.stride(0), -1.0 if back else 1.0,
        HEADS=heads, HALF=half, BLOCK_HEADS=triton.next_power_of_2(heads),
        BLOCK_HALF=triton.next_power_of_2(half), num_warps=8,
    )  # fmt: skip


def rotate_back(
    dq_TO: Tensor, dk_TO: Tensor, dv_TO: Tensor, out_TO: Tensor, cos_T1h: Tensor,
    sin_T1h: Tensor, heads: int, kv_heads: int,
) -> None:  # fmt: skip
    """See ``heads.rotate_back``; rows of heads side by side."""
    half = cos_T1h.shape[-1]
    _rotate_back[(len(dq_TO),)](
        dq_TO, dk_TO, dv_TO, out_TO, cos_T1h, sin_T1h, dq_TO.stride(0), dk_TO.stride(0),
        dv_TO.stride(0), out_TO.stride(0), HEADS=heads, KV_HEADS=kv_heads, HALF=half,
        BLOCK_HEADS=triton.next_power_of_2(heads), BLOCK_KV=triton.next_power_of_2(kv_heads),
        BLOCK_HALF=triton.next_power_of_2(half),
        BLOCK_V=triton.next_power_of_2(kv_heads * 2 * half), num_warps=8,
    )  # fmt: skip


def copy_columns(source: Tensor, out: Tensor) -> None:
    """See ``plain.copy_columns``."""
    count = out.numel()
    if count:
        _copy_columns[(triton.cdiv(count, 2048),)](
            source, out, count, out.shape[1], source.stride(0), BLOCK=2048, num_warps=4
        )


def copy_rows(source_TD: Tensor, out_TD: Tensor) -> None:
    """As ``out.copy_(source)``, in half of its time where rows have gaps."""
    rows, width = source_TD.shape
    _copy_rows[(rows, triton.cdiv(width, 2048))](
        source_TD, out_TD, source_TD.stride(0), out_TD.stride(0), width, BLOCK=2048, num_warps=4
    )


def swiglu(gu_T2I: Tensor, out_TI: Tensor) -> None:
    """See ``plain.swiglu``."""
    rows, width = out_TI.shape
    _swiglu[(rows, triton.cdiv(width, 2048))](
        gu_T2I, out_TI, gu_T2I.stride(0), out_TI.stride(0), width, BLOCK=2048, num_warps=8
    )


def swiglu_backward(dy_TI: Tensor, gu_T2I: Tensor) -> None:
    """See ``plain.swiglu_backward``."""
    rows, width = dy_TI.shape
    _swiglu_backward[(rows, triton.cdiv(width, 2048))](
        dy_TI, gu_T2I, dy_TI.stride(0), gu_T2I.stride(0), width, BLOCK=2048, num_warps=8
    )


def _warps(width: int) -> int:
    return 4 if width <= 1024 else 8 if width <= 4096 else 16
