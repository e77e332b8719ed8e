"""Attention of packed documents against the textbook, in fp64, with sizes that nothing divides."""

from itertools import accumulate, pairwise

import pytest
import torch
from torch.nn import functional

from repotune.kernels import PLAIN, Documents
from repotune.kernels.attention import attend_step

KV, WIDTH = 2, 10
TOLERANCE = 1e-10  # fp64 rounding over sums of some hundred terms
BACKWARD = 1e-6  # delta is a product with dO in fp32
# 8 or 11 bits, rounded a handful of times: probabilities, delta, and what each matmul gives
ROUNDED = {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


def relative(got, want):
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def packed(lengths, window=None):
    """Documents of these lengths, one behind the other."""
    bounds = [0, *accumulate(lengths)]
    return Documents(
        slices=tuple(slice(*pair) for pair in pairwise(bounds)),
        bounds=torch.tensor(bounds, dtype=torch.int32),
        longest=max(lengths),
        window=window,
    )


def textbook(q, k, v, lengths, window):
    """functional.scaled_dot_product_attention with every mask written out and heads repeated."""
    tokens, group = q.shape[1], q.shape[2]
    i, j = torch.arange(tokens)[:, None], torch.arange(tokens)[None, :]
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (j <= i) & (document[:, None] == document[None, :])
    if window is not None:
        mask &= j > i - window
    queries = q.permute(0, 2, 1, 3).flatten(0, 1)
    keys, values = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.unflatten(0, (-1, group)).permute(0, 2, 1, 3)


def random_heads(tokens, group, seed=0, dtype=torch.float64):
    """q, k, v and the gradient of the output, as numbers of ``dtype`` in fp64."""
    g = torch.Generator().manual_seed(seed)
    q, do = torch.randn(2, KV, tokens, group, WIDTH, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, KV, tokens, WIDTH, generator=g, dtype=torch.float64)
    return [one.to(dtype).double() for one in (q, k, v, do)]


def plain(q, k, v, do, documents):
    """Output and gradients of the table's operations, in q's precision."""
    attended = PLAIN.attention(q, k, v, documents, torch.empty_like(q))
    return attended.out, PLAIN.attention_backward(do, q, k, v, attended, documents)


def reference(q, k, v, do, lengths, window):
    leaves = [one.clone().requires_grad_() for one in (q, k, v)]
    out = textbook(*leaves, lengths, window)
    return out.detach(), torch.autograd.grad(out, leaves, do)


@pytest.mark.parametrize("lengths", [(127,), (128,), (301,), (1, 40, 1, 131, 1)], ids=str)
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("group", [1, 3])
def test_each_document_equals_the_textbook(lengths, window, group):
    q, k, v, do = random_heads(sum(lengths), group)
    want_out, want = reference(q, k, v, do, lengths, window)
    out, got = plain(q, k, v, do, packed(lengths, window))
    assert relative(out, want_out) < TOLERANCE
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert relative(one, other) < BACKWARD


@pytest.mark.parametrize("window", [None, 1])
def test_a_document_of_one_token_gives_its_value(window):
    q, k, v, do = random_heads(3, 2)
    out, (dq, dk, dv) = plain(q, k, v, do, packed((1, 1, 1), window))
    assert torch.equal(out, v[:, :, None].expand_as(out))
    # probabilities do not depend on q and k: what is left is delta's rounding to fp32
    assert float(dq.abs().max()) < BACKWARD
    assert float(dk.abs().max()) < BACKWARD
    assert relative(dv, do.sum(2)) < TOLERANCE


@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
def test_16_bits_are_as_exact_as_they_can_be(window, dtype):
    lengths = (1, 70, 150)
    wide = random_heads(sum(lengths), 3, dtype=dtype)
    want_out, want = reference(*wide, lengths, window)
    out, got = plain(*(one.to(dtype) for one in wide), packed(lengths, window))
    assert relative(out, want_out) < ROUNDED[dtype]
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        assert relative(one, other) < ROUNDED[dtype]


def test_a_document_sees_nothing_of_its_neighbours():
    q, k, v, do = random_heads(120, 2)
    for one in (q, k, v, do):
        one[:, :40] = one[:, 100:] = float("nan")
    out, gradients = plain(q, k, v, do, packed((40, 60, 20)))
    for one in (out, *gradients):
        assert one[:, 40:100].isfinite().all()


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("group", [1, 3])
def test_the_next_tokens_of_several_sequences_see_what_came_before_in_their_own(window, group):
    lengths = (50, 1, 33)
    whole = [random_heads(length, group, seed=length) for length in lengths]
    keys, values = torch.full((2, 3, KV, 60, WIDTH), 1e4, dtype=torch.float64)
    for i, (_, k, v, _) in enumerate(whole):
        keys[i, :, : lengths[i]], values[i, :, : lengths[i]] = k, v
    last = torch.tensor(lengths)[:, None] - 1
    seen = torch.arange(50) <= last
    if window is not None:
        seen &= torch.arange(50) > last - window
    q_KBGH = torch.cat([q[:, -1:] for q, *_ in whole], dim=1)
    got = torch.full_like(q_KBGH, float("nan"))
    bias = torch.where(seen, 0.0, float("-inf")).double()
    attend_step(q_KBGH, keys[:, :, :50], values[:, :, :50], bias, got)
    for i, (q, k, v, _) in enumerate(whole):
        expected = textbook(q, k, v, lengths[i : i + 1], window)[:, -1:]
        assert relative(got[:, i : i + 1], expected) < TOLERANCE


@pytest.mark.parametrize(
    ("lengths", "equal"),
    [((7,), True), ((5, 5, 5), True), ((1, 1), True), ((5, 5, 4), False), ((1, 9, 1), False)],
)
def test_documents_know_whether_they_are_equal(lengths, equal):
    assert packed(lengths).are_equal is equal
