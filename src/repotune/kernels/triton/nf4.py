"""NF4 to 16 bits: codes, scales and the scales' scales in one launch, the adapter in another.

``kernels.nf4.dequantise`` is the reference; results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from repotune.kernels import nf4
from repotune.kernels.nf4 import BLOCK, GROUP, AdapterBlock, Nf4, code_table, dynamic_table

_BLOCKS = 64
"""Blocks of 64 numbers that a program writes: 4,096 numbers, 2 KiB of codes."""
_TILE = 2048
"""Numbers of the adapter that a program copies."""


@triton.jit
def _dequantise(
    packed_ptr, scales_ptr, group_scales_ptr, offset_ptr, codes_ptr, dynamic_ptr, out_ptr,
    COUNT, BLOCKS_A_ROW, out_stride, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < COUNT
    code = tl.load(scales_ptr + block, mask=inside, other=0).to(tl.int32)
    group = tl.load(group_scales_ptr + block // GROUP, mask=inside, other=0.0)
    scale = tl.load(dynamic_ptr + code) * group + tl.load(offset_ptr)
    pair = tl.arange(0, BLOCK // 2)
    packed = tl.load(
        packed_ptr + block[:, None] * (BLOCK // 2) + pair[None, :], mask=inside[:, None], other=0
    )
    high = tl.load(codes_ptr + (packed >> 4).to(tl.int32)) * scale[:, None]
    low = tl.load(codes_ptr + (packed & 15).to(tl.int32)) * scale[:, None]
    both = tl.interleave(high, low).to(out_ptr.dtype.element_ty)
    at = block // BLOCKS_A_ROW * out_stride + block % BLOCKS_A_ROW * BLOCK
    number = tl.arange(0, BLOCK)
    tl.store(out_ptr + at[:, None] + number[None, :], both, mask=inside[:, None])


@triton.jit
def _block(b_ptr, row, column, start, end, rank, RANK):
    inside = (row >= start) & (row < end) & (column >= rank) & (column < rank + RANK)
    return tl.load(b_ptr + (row - start) * RANK + column - rank, mask=inside, other=0.0)


@triton.jit
def _place(
    a_ptr, b0_ptr, b1_ptr, b2_ptr, padded_ptr, ROWS, WIDTH, RANKS, RANK, stride,
    start0, end0, rank0, start1, end1, rank1, start2, end2, rank2, TILE: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    of_b = ROWS * RANKS
    is_b = number < of_b
    row, column = number // RANKS, number % RANKS
    # A number of B belongs to one module's block at most, and is zero outside of them.
    b = _block(b0_ptr, row, column, start0, end0, rank0, RANK)
    b += _block(b1_ptr, row, column, start1, end1, rank1, RANK)
    b += _block(b2_ptr, row, column, start2, end2, rank2, RANK)
    tl.store(padded_ptr + row * stride + WIDTH + column, b, mask=is_b)
    in_a = number - of_b
    is_a = (in_a >= 0) & (in_a < RANKS * WIDTH)
    a = tl.load(a_ptr + in_a, mask=is_a, other=0.0)
    at_a = (ROWS + in_a // WIDTH) * stride + in_a % WIDTH
    tl.store(padded_ptr + at_a, a, mask=is_a)


def dequantise(matrix: Nf4, out_OK: Tensor) -> None:
    """Write the matrix into ``out``, whose columns are contiguous, in out's precision."""
    if matrix.columns % BLOCK:  # a block would lie in two rows
        nf4.dequantise(matrix, out_OK)
        return
    count = matrix.rows * matrix.columns // BLOCK
    device = matrix.packed.device
    _dequantise[(triton.cdiv(count, _BLOCKS),)](
        matrix.packed, matrix.scales, matrix.group_scales, matrix.offset,
        code_table(device), dynamic_table(device), out_OK,
        count, matrix.columns // BLOCK, out_OK.stride(0), BLOCKS=_BLOCKS, BLOCK=BLOCK,
        GROUP=GROUP, num_warps=4, enable_fp_fusion=False,  # rounded twice, as the reference is
    )  # fmt: skip


def place_adapter(
    a_RK: Tensor, blocks: Sequence[AdapterBlock], outputs: int, padded: Tensor
) -> None:
    """See ``nf4.place_adapter``; of at most three blocks."""
    ranks, width = a_RK.shape
    if not ranks:
        return
    absent = AdapterBlock(slice(0, 0), slice(0, 0), blocks[0].values)
    three = [*blocks, absent, absent][:3]
    bounds = [n for b in three for n in (b.rows.start, b.rows.stop, b.columns.start)]
    _place[(triton.cdiv(ranks * (width + outputs), _TILE),)](
        a_RK, *(block.values for block in three), padded, outputs, width, ranks,
        blocks[0].values.shape[1], padded.stride(0), *bounds, TILE=_TILE, num_warps=4,
    )  # fmt: skip
