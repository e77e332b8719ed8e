"""Attention through PyTorch's own function, against the textbook and beside the plain table.

On the CPU PyTorch takes other kernels than on a GPU before Ampere; those that it takes there are
forced on the GPU at hand, by tests marked ``gpu``.
"""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from repotune.kernels import PLAIN_GPU, Heads

from .test_attention import BACKWARD, TOLERANCE, packed, random_heads, reference, relative

FP16 = 3e-3  # 11 bits, rounded a handful of times: probabilities, and what each matmul gives
LENGTHS = [(127,), (301,), (1, 40, 1, 131, 1), (50, 51)]


def through_torch(q, k, v, do, documents):
    attended = PLAIN_GPU.attention(q, k, v, documents, torch.empty_like(q))
    with torch.no_grad():  # as the decoder calls it
        return attended.out, PLAIN_GPU.attention_backward(do, q, k, v, attended, documents)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("window", [None, 50], ids=["no window", "a window of 50"])
@pytest.mark.parametrize("group", [1, 3])
def test_each_document_equals_the_textbook(lengths, window, group):
    q, k, v, do = random_heads(sum(lengths), group)
    want_out, want = reference(q, k, v, do, lengths, window)
    out, got = through_torch(q, k, v, do, packed(lengths, window))
    assert relative(out, want_out) < TOLERANCE
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert not one.requires_grad
        assert relative(one, other) < BACKWARD


@pytest.mark.parametrize("window", [None, 33])
def test_fp16_is_as_exact_as_its_eleven_bits(window):
    lengths = (1, 70, 150)
    wide = random_heads(sum(lengths), 3, dtype=torch.float16)
    want_out, want = reference(*wide, lengths, window)
    out, got = through_torch(*(one.half() for one in wide), packed(lengths, window))
    assert relative(out, want_out) < FP16
    for one, other in zip(got, want, strict=True):
        assert one.dtype == torch.float16
        assert relative(one, other) < FP16


def test_a_document_sees_nothing_of_its_neighbours():
    q, k, v, do = random_heads(120, 2)
    for one in (q, k, v, do):
        one[:, :40] = one[:, 100:] = float("nan")
    out, gradients = through_torch(q, k, v, do, packed((40, 60, 20)))
    for one in (out, *gradients):
        assert one[:, 40:100].isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "backend", [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], ids=["efficient", "math"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("heads", [Heads(2, 3, 40), Heads(3, 1, 64), Heads(2, 4, 128)], ids=str)
@pytest.mark.parametrize("lengths", [*LENGTHS, (1, 1, 1), (640,)], ids=str)
def test_what_a_gpu_before_ampere_takes_equals_the_textbook(backend, dtype, heads, lengths):
    device, tokens = torch.device("cuda"), sum(lengths)
    generator = torch.Generator().manual_seed(0)

    def normal(columns):
        return torch.randn(tokens, columns, generator=generator).to(dtype).to(device)

    # as a layer hands them over: q, k and v contiguous by head, the gradient a view of o's input
    q, k, v = (one.contiguous() for one in heads.split(normal(heads.queries + 2 * heads.keys)))
    do = heads.of_queries(normal(heads.queries))
    want_out, want = reference(*(one.double().cpu() for one in (q, k, v, do)), lengths, None)
    with sdpa_kernel(backend):
        out, got = through_torch(q, k, v, do, packed(lengths))
    tolerance = FP16 if dtype == torch.float16 else 5e-5  # with TF32 it would be 1e-3
    assert relative(out.cpu(), want_out) < tolerance
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        if float(other.norm()) > 1e-9:  # one token's q and k have no gradient
            assert relative(one.cpu(), other) < tolerance
