"""Each operation against autograd on its textbook definition, in fp64, with odd sizes."""

import pytest
import torch
from torch.nn import functional

from repotune.kernels import PLAIN
from repotune.kernels.attention import Span

T, D, M = 37, 21, 13
TOLERANCE = 1e-10  # fp64 rounding over sums of some hundred terms; statistics in fp32 where said
FP32 = 2e-6  # the norms compute their statistics in fp32


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


def test_rms_norm_forward_and_backward():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(T, D, generator=g, requires_grad=True)
    w = torch.rand(D, generator=g) + 0.5
    dy = torch.randn(T, D, generator=g)
    reference = functional.rms_norm(x.double(), (D,), w.double(), 1e-5)
    (expected,) = torch.autograd.grad(reference, x, dy.double())
    with torch.no_grad():
        out = torch.full((T, D), float("nan"))
        rstd = PLAIN.rms_norm(x, w, 1e-5, out)
        dx = PLAIN.rms_norm_backward(dy, x, w, rstd)
    assert relative(out, reference) < FP32
    assert relative(dx, expected) < FP32


def test_rms_norm_leaves_its_input_alone():
    x = torch.randn(T, D)
    before = x.clone()
    PLAIN.rms_norm(x, torch.ones(D), 1e-5, torch.empty(T, D))
    assert torch.equal(x, before)


def test_rope_is_a_rotation_and_its_backward_is_the_inverse():
    x = torch.randn(T, 3, 10, dtype=torch.float64)
    angle = torch.randn(T, 1, 5, dtype=torch.float64)
    out, back = torch.empty_like(x), torch.empty_like(x)
    PLAIN.rope(x, angle.cos(), angle.sin(), out)
    PLAIN.rope(out, angle.cos(), -angle.sin(), back)
    as_complex = torch.complex(x[..., :5], x[..., 5:]) * torch.polar(torch.ones_like(angle), angle)
    assert torch.allclose(out, torch.cat([as_complex.real, as_complex.imag], -1), atol=1e-12)
    assert torch.allclose(back, x, atol=1e-12)


def test_swiglu_forward_and_backward():
    gu = torch.randn(T, 2 * M, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(T, M, dtype=torch.float64)
    reference = functional.silu(gu[:, :M]) * gu[:, M:]
    (expected,) = torch.autograd.grad(reference, gu, dy)
    with torch.no_grad():
        out = torch.empty(T, M + 4, dtype=torch.float64)[:, :M]  # a view of a padded buffer
        PLAIN.swiglu(gu, out)
        dgu = PLAIN.swiglu_backward(dy, gu)
    assert relative(out, reference) < TOLERANCE
    assert relative(dgu, expected) < TOLERANCE


@pytest.mark.parametrize("tokens", [1, 127, 128, 301])
@pytest.mark.parametrize("window", [None, 50])
def test_attention_equals_the_textbook(tokens, window):
    kv_heads, group, width = 2, 3, 10
    g = torch.Generator().manual_seed(tokens)
    q = torch.randn(kv_heads, tokens, group, width, dtype=torch.float64, generator=g)
    k, v = torch.randn(2, kv_heads, tokens, width, dtype=torch.float64, generator=g)
    dout = torch.randn(q.shape, dtype=torch.float64, generator=g)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    reference = _textbook(*leaves, window)
    expected = torch.autograd.grad(reference, leaves, dout)

    span = Span(0, window)
    out = torch.empty_like(q)
    PLAIN.attention(q, k, v, span, out)
    gradients = PLAIN.attention_backward(dout, q, k, v, out, span)

    # delta is kept in q's precision after a product in fp32 at least, hence the looser bound
    assert relative(out, reference) < TOLERANCE
    for got, want in zip(gradients, expected, strict=True):
        if tokens == 1 and not want.any():
            assert got.abs().max() < 1e-6  # one key: probabilities do not depend on q and k
        else:
            assert relative(got, want) < 1e-6


def test_attention_of_a_continuation_equals_the_tail_of_the_whole():
    q = torch.randn(2, 40, 3, 10, dtype=torch.float64)
    k, v = torch.randn(2, 2, 40, 10, dtype=torch.float64)
    for window in (None, 7):
        whole = torch.empty_like(q)
        PLAIN.attention(q, k, v, Span(0, window), whole)
        tail = torch.empty_like(q[:, 33:])
        PLAIN.attention(q[:, 33:], k, v, Span(33, window), tail)
        assert torch.allclose(tail, whole[:, 33:], atol=1e-12)


def _textbook(q, k, v, window):
    """functional.scaled_dot_product_attention with every mask written out."""
    tokens, group = q.shape[1], q.shape[2]
    i, j = torch.arange(tokens)[:, None], torch.arange(tokens)[None, :]
    mask = j <= i if window is None else (j <= i) & (j > i - window)
    queries = q.permute(0, 2, 1, 3).flatten(0, 1)
    keys, values = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.unflatten(0, (-1, group)).permute(0, 2, 1, 3)
