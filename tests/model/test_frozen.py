"""The padded matrix [O + R, K + R]: the weight, B in the columns behind it, A in the rows below."""

import pytest
import torch

from repotune.kernels import PLAIN, Buffers
from repotune.kernels.nf4 import AdapterBlock, dequantise, quantise
from repotune.model.frozen import PAD, DenseWeight, Nf4Weight

K = 96
PARTS = (48, 16, 2)  # as q, k and v of grouped heads: stacked, of different heights
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def buffers(dtype):
    return Buffers(dtype, torch.device("cpu"))


def random_parts(dtype, rows=PARTS, columns=K, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(row, columns, generator=g).to(dtype) for row in rows]


def dense(weights, ranks):
    return DenseWeight(
        iter(weights), rows=sum(map(len, weights)), width=weights[0].shape[1], ranks=ranks,
        dtype=weights[0].dtype, device=torch.device("cpu"),
    )  # fmt: skip


def in_4_bits(weights, ranks, buffers):
    parts = [quantise(weight) for weight in weights]
    return Nf4Weight(parts, ranks, ops=PLAIN, buffers=buffers, dtype=weights[0].dtype)


def round_trip(weight):
    out = torch.empty_like(weight)
    dequantise(quantise(weight), out)
    return out


def fill(weight, rows, ranks, columns=K, seed=1):
    """A random adapter of equal ranks on all modules; returns A and the whole B as expected."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(ranks, columns, generator=g)
    dtype, rank, start, blocks = weight.padded().dtype, ranks // len(rows), 0, []
    b = torch.zeros(sum(rows), ranks, dtype=dtype)
    for i, count in enumerate(rows if rank else ()):
        out, column = slice(start, start + count), slice(i * rank, (i + 1) * rank)
        blocks.append(AdapterBlock(out, column, torch.randn(count, rank, generator=g)))
        b[out, column] = blocks[-1].values.to(dtype)
        start += count
    weight.refresh(a, blocks)
    return a.to(dtype), b


def check(weight, expected_w, a, b):
    rows, ranks = len(expected_w), len(a)
    width = expected_w.shape[1]
    padded = weight.padded()
    assert padded.shape == (rows + ranks, width + ranks)
    assert padded.dtype == expected_w.dtype
    assert padded.stride(1) == 1
    assert padded.stride(0) % PAD == 0
    assert torch.equal(padded[:rows, :width], expected_w)
    assert torch.equal(padded[:rows, width:], b)
    assert torch.equal(padded[rows:, :width], a)


@pytest.mark.parametrize("ranks", [12, 0, 64])
@pytest.mark.parametrize("rows", [PARTS, (40,)], ids=["several", "one"])
def test_a_dense_weight_is_the_padded_matrix(dtype, ranks, rows):
    weights = random_parts(dtype, rows)
    weight = dense(weights, ranks)
    assert weight.compute_a.shape == (ranks, K)
    assert not weight.padded()[:, K:].any()
    assert not weight.padded()[sum(rows) :].any()
    check(weight, torch.cat(weights), *fill(weight, rows, ranks))
    assert weight.padded().data_ptr() == weight.padded().data_ptr()


@pytest.mark.parametrize("ranks", [12, 0, 64])
@pytest.mark.parametrize("rows", [PARTS, (40,)], ids=["several", "one"])
def test_a_weight_in_4_bits_is_its_round_trip_in_the_same_places(dtype, buffers, ranks, rows):
    weights = random_parts(dtype, rows)
    weight = in_4_bits(weights, ranks, buffers)
    assert weight.compute_a.shape == (ranks, K)
    assert weight.compute_a.dtype == dtype
    expected = torch.cat([round_trip(one) for one in weights])
    check(weight, expected, *fill(weight, rows, ranks))


@pytest.mark.parametrize("kind", ["dense", "4 bits"])
def test_adapters_written_later_are_seen(dtype, buffers, kind):
    weights = random_parts(dtype)
    is_dense = kind == "dense"
    weight = dense(weights, 6) if is_dense else in_4_bits(weights, 6, buffers)
    expected = torch.cat(weights if is_dense else [round_trip(one) for one in weights])
    for seed in (1, 2):
        a, b = fill(weight, PARTS, 6, seed=seed)
        check(weight, expected, a, b)


def test_weights_that_share_a_buffer_do_not_disturb_each_other(dtype, buffers):
    sizes = {"small": ((16, 2), 32, 4), "large": (PARTS, 160, 12), "narrow": ((80,), 8, 0)}
    built = {}
    for seed, (name, (rows, columns, ranks)) in enumerate(sizes.items()):
        weights = random_parts(dtype, rows, columns, seed)
        weight = in_4_bits(weights, ranks, buffers)
        expected = torch.cat([round_trip(one) for one in weights])
        built[name] = (weight, expected, *fill(weight, rows, ranks, columns, seed))
    for name in ("small", "large", "small", "narrow", "large", "narrow", "small"):
        check(*built[name])
    # one buffer, the size of the largest, for all of them
    places = {weight.padded().data_ptr() for weight, *_ in built.values()}
    assert len(places) == 1


def read_of(weight):
    """What matmuls read: all but the corner behind A and below B."""
    padded, rows = weight.padded(), sum(PARTS)
    return padded[:rows].clone(), padded[rows:, :K].clone()


def test_an_expanded_weight_is_the_same_matrix_in_memory_of_its_own(dtype, buffers):
    weight, other = (in_4_bits(random_parts(dtype, seed=i), 12, buffers) for i in range(2))
    fill(weight, PARTS, 12)
    before, rows = read_of(weight), sum(PARTS)
    assert not weight.expand(False)
    assert weight.expand(True)
    assert not weight.expand(True)
    fill(other, PARTS, 12)  # writes over the shared memory
    assert all(map(torch.equal, read_of(weight), before))
    a, b = fill(weight, PARTS, 12, seed=7)
    assert torch.equal(weight.padded()[rows:, :K], a)
    assert torch.equal(weight.padded()[:rows, K:], b)
    after, own = read_of(weight), weight.padded().data_ptr()
    assert weight.expand(False)
    assert all(map(torch.equal, read_of(weight), after))
    assert weight.padded().data_ptr() == other.padded().data_ptr() != own
