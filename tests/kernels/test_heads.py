"""How the stack of q, k and v falls into heads, and what rotating them does; odd sizes, fp64."""

import pytest
import torch

from repotune.kernels import PLAIN, Buffers, Heads

T, HEADS = 19, Heads(kv=2, group=3, width=10)
COLUMNS = HEADS.queries + 2 * HEADS.keys


@pytest.fixture
def angles():
    g = torch.Generator().manual_seed(4)
    return torch.randn(T, 1, HEADS.width // 2, generator=g, dtype=torch.float64) * 3


@pytest.fixture
def stack():
    """The output of a stacked linear, in the first columns of a wider buffer."""
    g = torch.Generator().manual_seed(5)
    return torch.randn(T, COLUMNS + 7, generator=g, dtype=torch.float64)[:, :COLUMNS]


def buffers():
    return Buffers(torch.float64, torch.device("cpu"))


def rotate(stack, angles):
    return PLAIN.rotate(stack, angles.cos(), angles.sin(), HEADS, buffers())


def textbook(stack, angles):
    """q and k times cos plus their halves exchanged times sin, one head at a time."""
    h = HEADS.width // 2

    def turned(head):
        exchanged = torch.cat([-head[:, h:], head[:, :h]], dim=1)
        twice = torch.cat([angles, angles], dim=-1)[:, 0]
        return head * twice.cos() + exchanged * twice.sin()

    heads = stack.split(HEADS.width, dim=1)
    queries = HEADS.kv * HEADS.group
    q = torch.stack([turned(head) for head in heads[:queries]])
    k = torch.stack([turned(head) for head in heads[queries : queries + HEADS.kv]])
    v = torch.stack(heads[queries + HEADS.kv :])
    return q.unflatten(0, (HEADS.kv, HEADS.group)).transpose(1, 2), k, v


def test_heads_lie_side_by_side_in_groups_of_their_key():
    stack = torch.arange(COLUMNS).repeat(T, 1)
    q, k, v = HEADS.split(stack)
    for kv in range(HEADS.kv):
        for group in range(HEADS.group):
            assert int(q[kv, 3, group, 4]) == (kv * HEADS.group + group) * HEADS.width + 4
        assert int(k[kv, 3, 4]) == HEADS.queries + kv * HEADS.width + 4
        assert int(v[kv, 3, 4]) == HEADS.queries + HEADS.keys + kv * HEADS.width + 4


def test_split_gives_views(stack):
    for part in HEADS.split(stack):
        part.zero_()
    assert not stack.any()


def test_rotate_equals_the_textbook(stack, angles):
    before = stack.clone()
    for got, want in zip(rotate(stack, angles), textbook(stack, angles), strict=True):
        assert got.is_contiguous()
        assert torch.allclose(got, want, atol=1e-12)
    assert torch.equal(stack, before)


def test_what_rotate_gives_is_a_copy(stack, angles):
    assert not PLAIN.rotates_in_place
    parts = rotate(stack, angles)
    before = [part.clone() for part in parts]
    stack.zero_()
    for part, old in zip(parts, before, strict=True):
        assert torch.equal(part, old)


def test_rotate_back_undoes_rotate(stack, angles):
    back = torch.full_like(stack, float("nan"))
    PLAIN.rotate_back(*rotate(stack, angles), angles.cos(), angles.sin(), HEADS, back)
    assert torch.allclose(back, stack, atol=1e-12)


@pytest.mark.parametrize("by_token", [False, True], ids=["by head", "by token"])
def test_rotate_back_is_the_gradient_of_rotate(stack, angles, by_token):
    leaf = stack.clone().requires_grad_()
    outputs = textbook(leaf, angles)
    gradients = [torch.randn(out.shape, dtype=torch.float64) for out in outputs]
    (expected,) = torch.autograd.grad(outputs, leaf, gradients)
    if by_token:  # the strides in which fused attention gives them
        gradients = [one.transpose(0, 1).contiguous().transpose(0, 1) for one in gradients]
    wide = torch.full((T, COLUMNS + 5), 9.0, dtype=torch.float64)
    PLAIN.rotate_back(*gradients, angles.cos(), angles.sin(), HEADS, wide[:, :COLUMNS])
    assert torch.allclose(wide[:, :COLUMNS], expected, atol=1e-12)
    assert (wide[:, COLUMNS:] == 9.0).all()
