"""NF4 against a reference written from the papers, in fp64: codes, scales, and scales of scales."""

from statistics import NormalDist

import numpy as np
import pytest
import torch

from repotune.kernels import PLAIN
from repotune.kernels.nf4 import (
    BLOCK,
    CODES,
    GROUP,
    PIECE,
    allocate,
    block_scales,
    can_quantise,
    dequantise,
    dynamic_table,
    quantise,
)

CPU = torch.device("cpu")
SIZES = [
    (1, 64),  # one block
    (7, 192),  # odd rows, 21 blocks
    (64, 33),  # blocks that go over the ends of rows
    (33, 1024),  # 528 blocks: two groups and a bit
    (128, 128),  # 256 blocks: one whole group
]
SLACK = 1e-6  # of fp32, where what we compare it with is fp64


def nf4_codes():
    """Quantiles of a normal distribution: 8 negative, 0, 7 positive ones (arXiv 2305.14314, E)."""
    outermost = (1 - 1 / 32 + 1 - 1 / 30) / 2
    quantile = NormalDist().inv_cdf
    negative = [-quantile(p) for p in np.linspace(outermost, 0.5, 8)[:-1]]
    positive = [quantile(p) for p in np.linspace(outermost, 0.5, 9)[:-1]]
    codes = np.sort([*negative, 0.0, *positive])
    return codes / codes.max()


def dynamic_values():
    """What each byte of the dynamic type means (dynamic tree quantisation, arXiv 2110.02861).

    A sign, then zeros until the first one: the exponent; the bits behind it choose the middle of
    one of so many equal parts of [0.1, 1]. The two bytes without a one are 0 and 1.
    """
    values = [0.0, 1.0]
    for bits in range(1, 128):
        exponent = 7 - bits.bit_length()
        parts = 2 ** (6 - exponent)
        middle = 0.1 + 0.9 * (bits - parts + 0.5) / parts
        values += [middle * 10.0**-exponent, -middle * 10.0**-exponent]
    return np.sort(values)


def matrix(rows, columns, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=g) * 0.02).to(dtype)


def unpacked(quantised):
    """The 4-bit codes in the order of the numbers."""
    packed = quantised.packed.numpy()
    return np.stack([packed // 16, packed % 16], axis=1).reshape(-1)


def read(quantised, dtype=torch.float32):
    out = torch.full((quantised.rows, quantised.columns), float("nan"), dtype=dtype)
    dequantise(quantised, out)
    return out


def grouped(values_n):
    """[m, 256], filled up with NaN."""
    padded = np.full(-(-len(values_n) // GROUP) * GROUP, np.nan)
    padded[: len(values_n)] = values_n
    return padded.reshape(-1, GROUP)


def test_the_codes_are_quantiles_of_a_normal_distribution():
    # bitsandbytes rounds the outermost quantile to seven digits
    assert np.allclose(CODES, nf4_codes(), atol=1e-6)


def test_the_dynamic_table_has_256_ascending_values_symmetric_but_for_one():
    table = dynamic_table(CPU)
    assert table.shape == (256,)
    assert table.dtype == torch.float32
    assert (table.diff() > 0).all()
    assert float(table[-1]) == 1.0
    without_one = table[:-1]
    assert torch.equal(without_one, -without_one.flip(0))
    assert np.allclose(table.numpy(), dynamic_values(), rtol=SLACK, atol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_has_the_nearest_code_of_its_block(size, dtype):
    weight = matrix(*size, dtype)
    quantised = quantise(weight)
    blocks = weight.double().numpy().reshape(-1, BLOCK)
    shares = blocks / np.abs(blocks).max(axis=1, keepdims=True)
    distances = np.abs(shares.reshape(-1, 1) - nf4_codes())
    chosen = np.take_along_axis(distances, unpacked(quantised)[:, None].astype(int), axis=1)[:, 0]
    assert len(chosen) == weight.numel()
    assert (chosen <= distances.min(axis=1) + SLACK).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_scale_has_the_nearest_code_of_its_group(size):
    weight = matrix(*size)
    quantised = quantise(weight)
    absmax = np.abs(weight.double().numpy().reshape(-1, BLOCK)).max(axis=1)
    assert float(quantised.offset) == pytest.approx(absmax.mean(), rel=SLACK)
    centred = absmax - float(quantised.offset)
    groups = grouped(centred)
    group_scales = np.nanmax(np.abs(groups), axis=1)
    assert np.allclose(quantised.group_scales.numpy(), group_scales, rtol=1e-4, atol=0)
    assert quantised.scales.shape == (len(absmax),)

    its_group = np.repeat(quantised.group_scales.double().numpy(), GROUP)[: len(absmax)]
    shares = np.divide(centred, its_group, out=np.zeros_like(centred), where=its_group > 0)
    distances = np.abs(shares[:, None] - dynamic_values())
    codes = quantised.scales.numpy().astype(int)
    chosen = np.take_along_axis(distances, codes[:, None], axis=1)[:, 0]
    # the mean is subtracted in fp32, from scales several times as large as what is left
    assert (chosen <= distances.min(axis=1) + 1e-5).all()
    expected = dynamic_values()[codes] * its_group + float(quantised.offset)
    assert np.allclose(block_scales(quantised).numpy(), expected, rtol=SLACK)


def test_a_matrix_of_several_pieces_has_the_codes_of_its_pieces():
    weight = matrix(1030, 4160)  # 66,950 blocks: a piece of 65,536 and a rest
    upper, lower = quantise(weight[:500]), quantise(weight[500:])
    quantised = quantise(weight)
    assert weight.numel() > PIECE * BLOCK > weight[500:].numel()
    assert torch.equal(quantised.packed, torch.cat([upper.packed, lower.packed]))
    absmax = weight.double().reshape(-1, BLOCK).abs().amax(1)
    assert float(quantised.offset) == pytest.approx(float(absmax.mean()), rel=SLACK)
    scales = np.repeat(block_scales(quantised).double().numpy(), BLOCK)
    expected = (np.array(CODES)[unpacked(quantised)] * scales).reshape(weight.shape)
    assert np.allclose(read(quantised).numpy(), expected, rtol=SLACK, atol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dequantising_multiplies_codes_by_scales(size):
    quantised = quantise(matrix(*size))
    scales = np.repeat(block_scales(quantised).double().numpy(), BLOCK)
    expected = (np.array(CODES)[unpacked(quantised)] * scales).reshape(size)
    assert np.allclose(read(quantised).numpy(), expected, rtol=SLACK, atol=0)
    assert PLAIN.dequantise is dequantise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_output_of_16_bits_is_the_one_of_32_rounded(dtype):
    quantised = quantise(matrix(7, 192))
    assert torch.equal(read(quantised, dtype), read(quantised).to(dtype))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_error_is_at_most_half_a_gap_between_codes(size):
    weight = matrix(*size)
    quantised = quantise(weight)
    absmax = weight.reshape(-1, BLOCK).abs().amax(1)
    scale_error = (block_scales(quantised) - absmax).abs()
    half_code_gap = float(np.diff(CODES).max()) / 2
    half_table_gap = float(dynamic_table(CPU).diff().max()) / 2
    its_group = quantised.group_scales.repeat_interleave(GROUP)[: len(absmax)]
    assert (scale_error <= half_table_gap * its_group + SLACK * absmax).all()
    error = (read(quantised) - weight).reshape(-1, BLOCK).abs().amax(1)
    assert (error <= half_code_gap * absmax + scale_error + SLACK * absmax).all()


def test_quantising_the_scales_costs_next_to_nothing():
    weight = matrix(64, 1024)
    blocks = weight.double().numpy().reshape(-1, BLOCK)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    codes = nf4_codes()
    nearest = np.abs((blocks / absmax)[..., None] - codes).argmin(axis=-1)
    with_exact_scales = np.linalg.norm(codes[nearest] * absmax - blocks)
    error = float((read(quantise(weight)) - weight).norm())
    assert error == pytest.approx(with_exact_scales, rel=0.01)


def test_blocks_of_zeros_stay_zero():
    weight = matrix(12, 192)
    weight[3:5] = 0.0
    weight[9, 64:128] = 0.0
    out = read(quantise(weight))
    assert not out[3:5].any()
    assert not out[9, 64:128].any()
    assert out[weight != 0].isfinite().all()
    half_code_gap = float(np.diff(CODES).max()) / 2
    scale = float(weight.abs().max())
    assert float((out - weight).abs().max()) < (half_code_gap + 0.02) * scale


def test_a_matrix_of_zeros_stays_zero():
    assert not read(quantise(torch.zeros(8, 64))).any()


def test_blocks_of_one_scale_keep_it():
    weight = torch.tensor(CODES).repeat(8, 16) * 0.5
    assert torch.equal(read(quantise(weight)), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_out_may_be_a_part_of_a_wider_matrix(dtype):
    quantised = quantise(matrix(7, 192))
    whole = torch.full((12, 256), 5.0, dtype=dtype)
    dequantise(quantised, whole[2:9, :192])
    assert torch.equal(whole[2:9, :192], read(quantised, dtype))
    whole[2:9, :192] = 5.0
    assert (whole == 5.0).all()


def test_out_may_have_any_strides():
    quantised = quantise(matrix(7, 192))
    transposed = torch.empty(192, 7).t()
    dequantise(quantised, transposed)
    assert torch.equal(transposed, read(quantised))


def test_a_matrix_may_have_any_strides():
    weight = matrix(192, 7).t()
    quantised, same = quantise(weight), quantise(weight.contiguous())
    assert torch.equal(read(quantised), read(same))


def test_matrices_of_one_block_of_memory_are_those_apart():
    sizes = {"one": (33, 1024), "two": (7, 192), "three": (1, 64)}
    together = allocate(sizes, torch.device("cpu"))
    assert len({m.packed.untyped_storage().data_ptr() for m in together.values()}) == 1
    apart = {name: quantise(matrix(*size)) for name, size in sizes.items()}
    for name, one in together.items():
        one.copy_(apart[name])
    for name, one in together.items():
        assert (one.rows, one.columns) == sizes[name]
        for mine, its in zip(one.parts(), apart[name].parts(), strict=True):
            assert torch.equal(mine, its)
        assert torch.equal(read(one), read(apart[name]))


def test_a_large_matrix_takes_0_5159_bytes_a_number():
    quantised = quantise(matrix(1024, 1024))
    size = sum(part.nbytes for part in quantised.parts())
    assert size / 2**20 == pytest.approx(0.5159, abs=5e-5)
    block = allocate({"w": (1024, 1024)}, torch.device("cpu"))["w"].packed.untyped_storage()
    assert size <= block.nbytes() < 1.001 * size
    assert quantised.packed.shape == (2**19,)
    assert quantised.packed.dtype == quantised.scales.dtype == torch.uint8
    assert quantised.scales.shape == (2**14,)
    assert quantised.group_scales.shape == (64,)
    assert quantised.offset.shape == (1,)


@pytest.mark.parametrize(
    ("rows", "columns", "fits"),
    [(1, 64, True), (64, 1, True), (32, 6, True), (7, 192, True), (1, 63, False), (7, 96, False)],
)
def test_only_whole_blocks_can_be_quantised(rows, columns, fits):
    assert can_quantise(rows, columns) is fits


@pytest.mark.gpu
def test_all_parts_are_those_of_bitsandbytes_bit_for_bit():
    # Its version for CPUs gives some scales near a midpoint the code beside the nearest.
    from bitsandbytes import functional as bnb

    cuda = torch.device("cuda")
    weight = matrix(22016, 4096, torch.bfloat16).to(cuda)
    # Without blocks of zeros: bitsandbytes codes those as -1, here they are 0.
    packed, state = bnb.quantize_4bit(
        weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
    )
    quantised = quantise(weight)
    assert torch.equal(quantised.packed, packed.view(-1))
    assert torch.equal(quantised.scales, state.absmax)
    assert torch.equal(quantised.group_scales, state.state2.absmax)
    assert torch.equal(quantised.offset, state.offset.view(1))
    assert torch.equal(dynamic_table(cuda), state.state2.code)
    out = torch.empty_like(weight)
    dequantise(quantised, out)
    assert torch.equal(out, bnb.dequantize_4bit(packed, state))
