"""The backward's products with R columns, of which each reads a wide matrix once.

g = dy B and dB = dy^T t are one pass over dy: a program reads a block of outputs over some tokens,
and writes its part of either sum; a second launch adds the parts up, in a fixed order. dA of a
normed input is one pass over what the norm was of. On an H100 at 8,192 tokens of CodeLlama 7B they
take 0.36 and 0.08 ms a layer; cuBLAS' products, and norms made again, 0.58 and 0.16.

Shapes: T tokens, O outputs, K inputs, R ranks of all adapted modules of the stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from repotune.kernels.nf4 import AdapterBlock

_MOST_RANK = 32
"""Of one module: what a program adds up lies in registers. Else matmuls do it."""
_MOST_RANKS = 128
"""Of a stack, for the same reason."""
_LEAST_WIDTH = 2048
"""What is narrower stays in the cache between two products."""
_OUTPUTS, _TOKENS = 256, 32
"""What a program reads at a time: 16 KiB, in three stages; as fast as any on an H100."""
_SUM_TOKENS = 32
_COLUMNS, _ROWS = 64, 64
"""Of a normed input, at a time."""


@triton.jit
def _module(block, one, two, three, blocks0, blocks1):
    """What belongs to the module of three that ``block`` lies in."""
    return tl.where(block >= blocks1, three, tl.where(block >= blocks0, two, one))


@triton.jit
def _parts(
    dy_ptr, b_ptr, tail_ptr, g_ptr, db_ptr, T, CHUNK, dy_stride, b_stride, tail_stride,
    start0, stop0, rank0, start1, stop1, rank1, start2, stop2, rank2, blocks0, blocks1,
    RANK: tl.constexpr, RANKS: tl.constexpr, OUTPUTS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    block, chunk = tl.program_id(0), tl.program_id(1)
    first = _module(block, 0, blocks0, blocks1, blocks0, blocks1)
    start = _module(block, start0, start1, start2, blocks0, blocks1)
    stop = _module(block, stop0, stop1, stop2, blocks0, blocks1)
    rank = _module(block, rank0, rank1, rank2, blocks0, blocks1)
    row = start + (block - first) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row = row < stop
    column = tl.arange(0, RANKS)
    is_column = column < RANK
    b_at = b_ptr + row.to(tl.int64)[:, None] * b_stride + rank + column[None, :]
    b = tl.load(b_at, mask=is_row[:, None] & is_column[None, :], other=0.0)
    db = tl.zeros([OUTPUTS, RANKS], tl.float32)
    begin = chunk * CHUNK
    for at in range(begin, tl.minimum(begin + CHUNK, T), TOKENS):
        token = (at + tl.arange(0, TOKENS)).to(tl.int64)
        is_token = token < T
        dy_at = dy_ptr + token[:, None] * dy_stride + row[None, :]
        dy = tl.load(dy_at, mask=is_token[:, None] & is_row[None, :], other=0.0)
        tail_at = tail_ptr + token[:, None] * tail_stride + rank + column[None, :]
        tail = tl.load(tail_at, mask=is_token[:, None] & is_column[None, :], other=0.0)
        db = tl.dot(tl.trans(dy), tail, db, input_precision="ieee")
        g = tl.dot(dy, b, input_precision="ieee")
        g_at = g_ptr + (block.to(tl.int64) * T + token)[:, None] * RANKS + column[None, :]
        tl.store(g_at, g, mask=is_token[:, None])
    out = (chunk * tl.num_programs(0) + block).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    tl.store(db_ptr + out[:, None] * RANKS + column[None, :], db)


@triton.jit
def _sum_g(
    parts_ptr, g_ptr, T, g_stride, token, column, rank, first, last, RANK: tl.constexpr,
    RANKS: tl.constexpr,
):  # fmt: skip
    if last > first:
        at = token[:, None] * RANKS + column[None, :]
        is_token = (token < T)[:, None]
        total = tl.zeros(at.shape, tl.float32)
        for block in range(first, last):
            total += tl.load(parts_ptr + tl.cast(block, tl.int64) * T * RANKS + at, mask=is_token)
        to = g_ptr + token[:, None] * g_stride + rank + column[None, :]
        tl.store(to, total, mask=is_token & (column < RANK)[None, :])


@triton.jit
def _sums(
    g_parts_ptr, db_parts_ptr, g_ptr, db0_ptr, db1_ptr, db2_ptr, T, BLOCKS, CHUNKS, G_PROGRAMS,
    WIDTH, g_stride, start0, stop0, rank0, start1, stop1, rank1, start2, stop2, rank2,
    blocks0, blocks1, RANK: tl.constexpr, RANKS: tl.constexpr, OUTPUTS: tl.constexpr,
    TOKENS: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    column = tl.arange(0, RANKS)
    if program < G_PROGRAMS:
        token = program.to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
        _sum_g(g_parts_ptr, g_ptr, T, g_stride, token, column, rank0, 0, blocks0, RANK, RANKS)
        _sum_g(g_parts_ptr, g_ptr, T, g_stride, token, column, rank1, blocks0, blocks1, RANK, RANKS)
        _sum_g(g_parts_ptr, g_ptr, T, g_stride, token, column, rank2, blocks1, BLOCKS, RANK, RANKS)
        if PADDING > 0:
            unused = WIDTH - PADDING + tl.arange(0, 8)
            zeros = tl.zeros([TOKENS, 8], g_ptr.dtype.element_ty)
            is_unused = (token < T)[:, None] & (unused < WIDTH)[None, :]
            tl.store(g_ptr + token[:, None] * g_stride + unused[None, :], zeros, mask=is_unused)
    else:
        block = program - G_PROGRAMS
        first = _module(block, 0, blocks0, blocks1, blocks0, blocks1)
        start = _module(block, start0, start1, start2, blocks0, blocks1)
        stop = _module(block, stop0, stop1, stop2, blocks0, blocks1)
        row = (block - first) * OUTPUTS + tl.arange(0, OUTPUTS)
        inside = (row < stop - start)[:, None] & (column < RANK)[None, :]
        part = block.to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
        total = tl.zeros([OUTPUTS, RANKS], tl.float32)
        for chunk in range(CHUNKS):
            at = tl.cast(chunk, tl.int64) * BLOCKS * OUTPUTS + part
            total += tl.load(db_parts_ptr + at[:, None] * RANKS + column[None, :])
        to = row[:, None] * RANK + column[None, :]
        if block < blocks0:
            tl.store(db0_ptr + to, tl.load(db0_ptr + to, mask=inside) + total, mask=inside)
        elif block < blocks1:
            tl.store(db1_ptr + to, tl.load(db1_ptr + to, mask=inside) + total, mask=inside)
        else:
            tl.store(db2_ptr + to, tl.load(db2_ptr + to, mask=inside) + total, mask=inside)


def adapter_gradients(
    dy_TO: Tensor, b_OR: Tensor, tail_TR: Tensor, blocks: Sequence[AdapterBlock], g_TR: Tensor
) -> None:
    """See ``plain.adapter_gradients``; of at most three blocks, whose values are contiguous."""
    rank = blocks[0].values.shape[1] if blocks else 0
    if not 0 < rank <= _MOST_RANK or dy_TO.shape[1] < _LEAST_WIDTH:
        torch.mm(dy_TO, b_OR, out=g_TR)
        for one in blocks:
            add_product(one.values, dy_TO[:, one.rows].t(), tail_TR[:, one.columns], 1.0)
        return
    tokens, ranks, width = len(dy_TO), max(16, triton.next_power_of_2(rank)), g_TR.shape[1]
    counts = [triton.cdiv(one.rows.stop - one.rows.start, _OUTPUTS) for one in blocks]
    ends = [sum(counts[: i + 1]) for i in range(3)]
    chunk, chunks = _chunks(tokens, _TOKENS, _programs(dy_TO.device) // ends[2])
    g_parts = torch.empty(ends[2], tokens, ranks, dtype=torch.float32, device=dy_TO.device)
    db_parts = torch.empty(
        chunks, ends[2], _OUTPUTS, ranks, dtype=torch.float32, device=dy_TO.device
    )
    absent = AdapterBlock(slice(0, 0), slice(0, 0), blocks[0].values)
    three = [*blocks, absent, absent][:3]
    bounds = [n for b in three for n in (b.rows.start, b.rows.stop, b.columns.start)]
    _parts[(ends[2], chunks)](
        dy_TO, b_OR, tail_TR, g_parts, db_parts, tokens, chunk, dy_TO.stride(0), b_OR.stride(0),
        tail_TR.stride(0), *bounds, ends[0], ends[1], RANK=rank, RANKS=ranks, OUTPUTS=_OUTPUTS,
        TOKENS=_TOKENS, num_warps=4, num_stages=3,
    )  # fmt: skip
    g_programs = triton.cdiv(tokens, _SUM_TOKENS)
    _sums[(g_programs + ends[2],)](
        g_parts, db_parts, g_TR, *(one.values for one in three), tokens, ends[2], chunks,
        g_programs, width, g_TR.stride(0), *bounds, ends[0], ends[1], RANK=rank, RANKS=ranks,
        OUTPUTS=_OUTPUTS, TOKENS=_SUM_TOKENS, PADDING=width - rank * len(blocks), num_warps=4,
    )  # fmt: skip


def add_product(total: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
    """See ``plain.add_product``; in one launch, without rounding the product to 16 bits."""
    torch.addmm(total, left, right, torch.float32, alpha=factor, out=total)


@triton.jit
def _normed_parts(
    g_ptr, x_ptr, rstd_ptr, parts_ptr, T, K, CHUNK, g_stride, x_stride, RANKS,
    PADDED: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    chunk = tl.program_id(1)
    rank = tl.arange(0, PADDED)
    total = tl.zeros([PADDED, COLUMNS], tl.float32)
    begin = chunk * CHUNK
    for at in range(begin, tl.minimum(begin + CHUNK, T), ROWS):
        token = (at + tl.arange(0, ROWS)).to(tl.int64)
        is_token = (token < T)[:, None]
        g_at = g_ptr + token[:, None] * g_stride + rank[None, :]
        g = tl.load(g_at, mask=is_token & (rank < RANKS)[None, :], other=0.0)
        x_at = x_ptr + token[:, None] * x_stride + column[None, :]
        x = tl.load(x_at, mask=is_token & (column < K)[None, :], other=0.0)
        rstd = tl.load(rstd_ptr + token, mask=token < T, other=0.0)
        x = (x.to(tl.float32) * rstd[:, None]).to(x_ptr.dtype.element_ty)
        total = tl.dot(tl.trans(g), x, total, input_precision="ieee")
    to = (chunk * PADDED + rank)[:, None].to(tl.int64) * K + column[None, :]
    tl.store(parts_ptr + to, total, mask=(column < K)[None, :])


@triton.jit
def _normed_sum(
    parts_ptr, total_ptr, w_ptr, K, CHUNKS, factor, PADDED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    rank = tl.program_id(0)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < K
    total = tl.zeros([TILE], tl.float32)
    for chunk in range(CHUNKS):
        part = (chunk * PADDED + rank).to(tl.int64) * K
        total += tl.load(parts_ptr + part + column, mask=inside, other=0.0)
    total *= factor * tl.load(w_ptr + column, mask=inside, other=0.0).to(tl.float32)
    at = total_ptr + rank.to(tl.int64) * K + column
    tl.store(at, tl.load(at, mask=inside) + total, mask=inside)


def add_normed_product(
    total_RK: Tensor, g_TR: Tensor, x_TK: Tensor, rstd_T1: Tensor, w_K: Tensor, factor: float
) -> None:
    """See ``plain.add_normed_product``."""
    ranks, width = total_RK.shape
    tokens, blocks = len(x_TK), triton.cdiv(width, _COLUMNS)
    if not ranks:
        return
    if ranks > _MOST_RANKS or width < _LEAST_WIDTH:
        normed_TK = torch.mul(x_TK, rstd_T1, out=x_TK.new_empty(x_TK.shape))
        product_RK = torch.zeros_like(total_RK)
        add_product(product_RK, g_TR.t(), normed_TK, 1.0)
        total_RK.addcmul_(product_RK, w_K, value=factor)
        return
    padded = max(16, triton.next_power_of_2(ranks))
    chunk, chunks = _chunks(tokens, _ROWS, 2 * _programs(x_TK.device) // blocks)
    parts = torch.empty(chunks, padded, width, dtype=torch.float32, device=x_TK.device)
    _normed_parts[(blocks, chunks)](
        g_TR, x_TK, rstd_T1, parts, tokens, width, chunk, g_TR.stride(0), x_TK.stride(0), ranks,
        PADDED=padded, COLUMNS=_COLUMNS, ROWS=_ROWS, num_warps=4, num_stages=3,
    )  # fmt: skip
    _normed_sum[(ranks, triton.cdiv(width, 1024))](
        parts, total_RK, w_K, width, chunks, factor, PADDED=padded, TILE=1024, num_warps=4
    )


def _chunks(tokens: int, at_once: int, wanted: int) -> tuple[int, int]:
    """Tokens of a chunk, a multiple of ``at_once``, and how many chunks: about ``wanted``."""
    count = max(1, min(triton.cdiv(tokens, at_once), wanted))
    chunk = triton.cdiv(triton.cdiv(tokens, count), at_once) * at_once
    return chunk, triton.cdiv(tokens, chunk)


@cache
def _programs(device: torch.device) -> int:
    """How many keep all of a GPU's processors busy."""
    return 2 * int(torch.cuda.get_device_properties(device).multi_processor_count)
