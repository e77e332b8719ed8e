"""Each operation against autograd on its textbook definition, with odd sizes."""

import pytest
import torch
from torch.nn import functional

from repotune.kernels import PLAIN
from repotune.kernels.nf4 import AdapterBlock
from repotune.kernels.plain import rope

T, D, M = 37, 21, 13
TOLERANCE = 1e-10  # fp64 rounding over sums of some hundred terms
FP32 = 2e-6  # the norms compute their statistics in fp32
FP16 = 1e-3  # 11 bits, rounded two or three times


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


def inside(rows, columns, dtype=torch.float32):
    """A view of a wider buffer that holds NaN, as the padded input of a linear."""
    return torch.full((rows, columns + 5), float("nan"), dtype=dtype)[:, :columns]


@pytest.mark.parametrize("adds", [False, True], ids=["x", "x + add"])
def test_rms_norm_forward_and_backward(adds):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(T, D, generator=g)
    add = torch.randn(T, D, generator=g) if adds else None
    w = torch.rand(D, generator=g) + 0.5
    dy, residual = torch.randn(2, T, D, generator=g)
    normed = (x if add is None else x + add).requires_grad_()
    reference = functional.rms_norm(normed.double(), (D,), w.double(), 1e-5)
    (expected,) = torch.autograd.grad(reference, normed, dy.double())

    out, dx, total = inside(T, D), inside(T, D), inside(T, D)
    rstd = PLAIN.rms_norm(x, w, 1e-5, out, add=add, total=total if adds else None)
    assert rstd.shape == (T, 1)
    assert rstd.dtype == torch.float32
    assert relative(out, reference) < FP32
    if adds:
        assert torch.equal(total, x + add)
    PLAIN.rms_norm_backward(dy, normed.detach(), w, rstd, residual, dx)
    assert relative(dx, expected + residual) < FP32


def test_in_fp16_the_statistics_of_the_norm_do_not_overflow():
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(T, D, generator=g) * 3000).half()  # squares are far beyond 65,504
    w, dy = torch.rand(D, generator=g).half(), torch.randn(T, D, generator=g).half()
    leaf = x.double().requires_grad_()
    reference = functional.rms_norm(leaf, (D,), w.double(), 1e-5)
    (expected,) = torch.autograd.grad(reference, leaf, dy.double())
    out, dx = inside(T, D, torch.float16), inside(T, D, torch.float16)
    rstd = PLAIN.rms_norm(x, w, 1e-5, out)
    assert rstd.dtype == torch.float32
    assert relative(out, reference) < FP16
    # times a scale, since gradients of 1e-4 have few bits in fp16
    scale = 2.0**10
    PLAIN.rms_norm_backward(dy * scale, x, w, rstd, torch.zeros_like(x), dx)
    assert relative(dx.double() / scale, expected) < FP16


def test_rms_norm_leaves_its_input_alone():
    x, add = torch.randn(2, T, D)
    before = x.clone(), add.clone()
    PLAIN.rms_norm(x, torch.rand(D), 1e-5, inside(T, D))
    PLAIN.rms_norm(x, torch.rand(D), 1e-5, inside(T, D), add=add, total=inside(T, D))
    assert torch.equal(x, before[0])
    assert torch.equal(add, before[1])


def test_the_gradient_of_rms_norm_may_be_added_to_the_residual_in_place():
    dy, x, residual = torch.randn(3, T, D)
    w, apart = torch.rand(D), torch.empty(T, D)
    rstd = PLAIN.rms_norm(x, w, 1e-5, torch.empty(T, D))
    PLAIN.rms_norm_backward(dy, x, w, rstd, residual, apart)
    PLAIN.rms_norm_backward(dy, x, w, rstd, residual, residual)
    assert torch.equal(residual, apart)


def test_rope_is_a_rotation_and_its_backward_is_the_inverse():
    x = torch.randn(T, 3, 10, dtype=torch.float64)
    angle = torch.randn(T, 1, 5, dtype=torch.float64)
    out, back = torch.empty_like(x), torch.empty_like(x)
    rope(x, angle.cos(), angle.sin(), out)
    rope(out, angle.cos(), -angle.sin(), back)
    as_complex = torch.complex(x[..., :5], x[..., 5:]) * torch.polar(torch.ones_like(angle), angle)
    assert torch.allclose(out, torch.cat([as_complex.real, as_complex.imag], -1), atol=1e-12)
    assert torch.allclose(back, x, atol=1e-12)


def test_swiglu_forward_and_backward():
    leaf = torch.randn(T, 2 * M, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(T, M, dtype=torch.float64)
    reference = functional.silu(leaf[:, :M]) * leaf[:, M:]
    (expected,) = torch.autograd.grad(reference, leaf, dy)

    gu = inside(T, 2 * M, torch.float64).copy_(leaf.detach())
    out = inside(T, M, torch.float64)
    PLAIN.swiglu(gu, out)
    assert relative(out, reference) < TOLERANCE
    assert torch.equal(gu, leaf)
    over_dy = inside(T, M, torch.float64).copy_(dy)
    PLAIN.swiglu_backward(over_dy, gu)
    assert relative(gu, expected) < TOLERANCE
    assert torch.equal(over_dy, out)


def test_swiglu_in_fp16():
    g = torch.Generator().manual_seed(0)
    gu, dy = torch.randn(T, 2 * M, generator=g).half(), torch.randn(T, M, generator=g).half()
    leaf = gu.double().requires_grad_()
    reference = functional.silu(leaf[:, :M]) * leaf[:, M:]
    (expected,) = torch.autograd.grad(reference, leaf, dy.double())
    out = inside(T, M, torch.float16)
    PLAIN.swiglu(gu, out)
    assert relative(out, reference) < FP16
    PLAIN.swiglu_backward(dy, gu)
    assert relative(gu, expected) < FP16


def test_the_gradients_of_an_adapter_are_two_products():
    dy, tail = torch.randn(7, 9), torch.randn(7, 8)
    b = torch.zeros(9, 8)
    b[:4, :3], b[4:, 3:6] = torch.randn(4, 3), torch.randn(5, 3)
    blocks = [
        AdapterBlock(slice(0, 4), slice(0, 3), torch.ones(4, 3)),
        AdapterBlock(slice(4, 9), slice(3, 6), torch.ones(5, 3)),
    ]
    g = torch.full((7, 8), torch.nan)
    PLAIN.adapter_gradients(dy, b, tail, blocks, g)
    whole = dy.t() @ tail
    torch.testing.assert_close(g, dy @ b)
    torch.testing.assert_close(blocks[0].values, 1 + whole[:4, :3])
    torch.testing.assert_close(blocks[1].values, 1 + whole[4:, 3:6])


def test_a_product_with_a_norm_is_that_with_the_normed_input():
    x, w, g = torch.randn(7, 9), torch.randn(9), torch.randn(7, 4)
    normed, total = torch.empty(7, 9), torch.ones(4, 9)
    rstd = PLAIN.rms_norm(x, w, 1e-5, normed)
    PLAIN.add_normed_product(total, g, x, rstd, w, 0.5)
    torch.testing.assert_close(total, 1 + 0.5 * g.t() @ normed)
