"""NF4 with double quantisation (arXiv 2305.14314), bit for bit as bitsandbytes stores it.

A matrix is read row by row in blocks of 64 numbers. A block has 64 codes of 4 bits and one scale,
its largest magnitude; the scales, less their mean, are stored in 8 bits in groups of 256, with one
fp32 scale a group. Together 4.127 bits a number.

Shapes: O rows, K columns, n = O * K / 64 blocks, m = n / 256 groups, rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

BLOCK = 64
"""Numbers that share a scale."""
GROUP = 256
"""Scales that share a scale of their own."""
PIECE = 2**16
"""Blocks that are quantised or dequantised at a time."""
LINE = 256
"""Bytes to whose multiples parts of a block are aligned, as separate tensors would be."""

CODES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution, scaled to [-1, 1] (arXiv 2305.14314, appendix E)."""


@dataclass(frozen=True, slots=True)
class Nf4:
    """A quantised matrix; its tensors may be views into one flat block of bytes."""

    rows: int
    columns: int
    packed: Tensor
    """[O * K / 2] uint8; the first of two numbers in the high half."""
    scales: Tensor
    """[n] uint8: codes of the blocks' scales."""
    group_scales: Tensor
    """[m] fp32"""
    offset: Tensor
    """[1] fp32: the mean of the blocks' scales."""

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Its tensors, in the order of the fields."""
        return self.packed, self.scales, self.group_scales, self.offset

    def copy_(self, other: Nf4) -> None:
        """Take over the numbers of a matrix of the same size, which may be on another device."""
        for mine, its in zip(self.parts(), other.parts(), strict=True):
            mine.copy_(its)


def allocate(sizes: Mapping[str, tuple[int, int]], device: torch.device) -> dict[str, Nf4]:
    """Uninitialised matrices of (rows, columns) by name, in one block of memory.

    What is read and quantised for them comes and goes behind it, and leaves no holes.
    """
    bytes_of = {name: _part_bytes(rows, columns) for name, (rows, columns) in sizes.items()}
    block = torch.empty(sum(map(sum, bytes_of.values())), dtype=torch.uint8, device=device)
    places = iter(torch.split(block, [n for parts in bytes_of.values() for n in parts]))
    matrices = {}
    for name, (rows, columns) in sizes.items():
        count = rows * columns // BLOCK
        packed, scales, groups, offset = (next(places) for _ in range(4))
        matrices[name] = Nf4(
            rows, columns, packed[: rows * columns // 2], scales[:count],
            groups.view(torch.float32)[: -(-count // GROUP)], offset.view(torch.float32)[:1],
        )  # fmt: skip
    return matrices


def _part_bytes(rows: int, columns: int) -> tuple[int, int, int, int]:
    """Of the parts of a matrix, each rounded up to whole cache lines."""
    count = rows * columns // BLOCK
    exact = (rows * columns // 2, count, 4 * -(-count // GROUP), 4)
    packed, scales, groups, offset = (-(-n // LINE) * LINE for n in exact)
    return packed, scales, groups, offset


def can_quantise(rows: int, columns: int) -> bool:
    """Whether a matrix of this size is a whole number of blocks."""
    return rows * columns % BLOCK == 0


def quantise(weight_OK: Tensor) -> Nf4:
    """Quantise a matrix on its own device. Its size must be a whole number of blocks."""
    rows, columns = weight_OK.shape
    blocks = weight_OK.reshape(-1, BLOCK)
    packed = torch.empty(weight_OK.numel() // 2, dtype=torch.uint8, device=weight_OK.device)
    absmax_n = torch.empty(len(blocks), device=weight_OK.device)
    # By the piece: fp32 copies and codes of a whole matrix are ten times its size in NF4.
    sizes = ((blocks, PIECE), (absmax_n, PIECE), (packed, PIECE * BLOCK // 2))
    pieces = zip(*(torch.split(whole, size) for whole, size in sizes), strict=True)
    for piece, absmax, codes in pieces:
        _quantise_blocks(piece.float(), absmax, codes)
    return Nf4(rows, columns, packed, *_quantise_scales(absmax_n))


def _quantise_blocks(blocks: Tensor, absmax_out: Tensor, packed_out: Tensor) -> None:
    """Of fp32 blocks [n, 64]: their largest magnitudes [n], and two codes a byte."""
    torch.amax(blocks.abs(), dim=1, out=absmax_out)
    # An all-zero block has no scale to divide by; bitsandbytes' 0 * inf is NaN, coded as 7, zero.
    inverse = torch.where(absmax_out > 0, 1.0 / absmax_out, torch.zeros_like(absmax_out))
    edges = _midpoints(code_table(blocks.device))
    codes = torch.bucketize(blocks * inverse[:, None], edges, out_int32=True)
    pairs = codes.to(torch.uint8).view(-1, 2)
    torch.bitwise_or(pairs[:, 0] << 4, pairs[:, 1], out=packed_out)


def dequantise(matrix: Nf4, out_OK: Tensor) -> None:
    """Write the matrix into ``out``, which may be a view with any strides, in out's precision."""
    pairs = pair_table(matrix.packed.device)
    scales_n1 = block_scales(matrix)[:, None]
    # As in ``quantise`` by the piece; 64 rows are whole blocks, whatever the columns.
    step = max(1, PIECE // matrix.columns) * BLOCK
    for start in range(0, matrix.rows, step):
        out = out_OK[start : start + step]
        first, count = start * matrix.columns, len(out) * matrix.columns
        codes = matrix.packed[first // 2 : (first + count) // 2].int()
        values = pairs.index_select(0, codes).view(-1, BLOCK)
        values.mul_(scales_n1[first // BLOCK : (first + count) // BLOCK])
        out.copy_(values.view(out.shape))


@dataclass(frozen=True, slots=True)
class AdapterBlock:
    """One module's B inside a stack's: its rows of the output, its columns of the ranks."""

    rows: slice
    columns: slice
    values: Tensor
    """[rows, columns]"""


def place_adapter(
    a_RK: Tensor, blocks: Sequence[AdapterBlock], outputs: int, padded: Tensor
) -> None:
    """Write B behind the O rows of a padded weight [O + R, K + R], and A below them.

    B is zero outside of ``blocks``.
    """
    ranks, width = a_RK.shape
    b_OR = padded[:outputs, width : width + ranks].zero_()
    for block in blocks:
        b_OR[block.rows, block.columns] = block.values
    padded[outputs : outputs + ranks, :width] = a_RK


def block_scales(matrix: Nf4) -> Tensor:
    """The blocks' scales, [n] fp32."""
    values = dynamic_table(matrix.scales.device)[matrix.scales.long()]
    groups = matrix.group_scales.repeat_interleave(GROUP)[: len(values)]
    return values * groups + matrix.offset


def _quantise_scales(absmax_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """8-bit codes [n], their groups' scales [m] and the mean [1]."""
    offset = absmax_n.mean().reshape(1)
    centred = absmax_n - offset
    padding = -len(centred) % GROUP
    groups = torch.nn.functional.pad(centred, (0, padding)).view(-1, GROUP)
    group_scales = groups.abs().amax(dim=1)
    inverse = torch.where(group_scales > 0, 1.0 / group_scales, torch.zeros_like(group_scales))
    edges = _midpoints(dynamic_table(absmax_n.device))
    codes = torch.bucketize(groups * inverse[:, None], edges).to(torch.uint8)
    return codes.view(-1)[: len(centred)].contiguous(), group_scales, offset


@cache
def code_table(device: torch.device) -> Tensor:
    """The 16 values of a code, ascending."""
    return torch.tensor(CODES, device=device)


@cache
def pair_table(device: torch.device) -> Tensor:
    """The two values of each byte, [256, 2]."""
    codes = torch.arange(256, device=device)
    return code_table(device)[torch.stack([codes >> 4, codes & 15], dim=1)]


@cache
def dynamic_table(device: torch.device) -> Tensor:
    """The 256 values of the 8-bit "dynamic" type, ascending (arXiv 1511.04561, 2110.02861).

    A sign, up to six leading zero bits as a decimal exponent, and the rest as a linear fraction
    in [0.1, 1]; zero and one complete it.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        fractions = (edges[:-1] + edges[1:]) / 2.0
        magnitudes = (10.0 ** (exponent - 6) * fractions).tolist()
        values += magnitudes + [-value for value in magnitudes]
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


def _midpoints(values: Tensor) -> Tensor:
    return (values[1:] + values[:-1]) / 2
