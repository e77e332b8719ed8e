import pytest
import torch
from torch.nn import functional

from repotune.kernels import PLAIN, Buffers, cross_entropy
from repotune.records import IGNORE

T, D, V = 29, 11, 97
BUFFERS = Buffers(torch.float32, torch.device("cpu"))


@pytest.fixture(params=[1, 7 * V, 10**6], ids=["row by row", "chunks of 7", "one chunk"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", request.param)


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(T, D, generator=g)
    head = torch.randn(V, D, generator=g)
    labels = torch.randint(0, V, (T,), generator=g)
    labels[[0, 5, 6, 7, 8, 9, 10, 11, 12, 13, T - 1]] = IGNORE
    return x, head, labels


def loss_and_gradient(x, head, labels, scale=1.0):
    dx = torch.full_like(x, float("nan"))  # what lies in the buffer must not matter
    loss = PLAIN.cross_entropy(x, head, labels, scale=torch.tensor(scale), dx=dx, buffers=BUFFERS)
    return float(loss), dx


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_loss_and_gradient_equal_full_logits_in_fp64(chunk, case, scale):
    x, head, labels = case
    leaf = x.double().requires_grad_()
    reference = functional.cross_entropy(leaf @ head.double().t(), labels, reduction="sum")
    (expected,) = torch.autograd.grad(reference * scale, leaf)
    loss, dx = loss_and_gradient(x, head, labels, scale)
    # fp32 sums of a hundred terms; the loss itself is not scaled
    assert loss == pytest.approx(float(reference.detach()), rel=1e-6)
    assert float((dx - expected).norm() / expected.norm()) < 1e-6
    assert not dx[labels == IGNORE].any()


def test_token_losses_are_the_terms_of_the_sum(chunk, case):
    x, head, labels = case
    losses = PLAIN.token_losses(x, head, labels, BUFFERS)
    expected = functional.cross_entropy(x @ head.t(), labels, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-5)
    assert float(losses.sum()) == pytest.approx(loss_and_gradient(x, head, labels)[0], rel=1e-6)


def test_a_row_without_labels_costs_nothing(case):
    x, head, _ = case
    loss, dx = loss_and_gradient(x, head, torch.full((T,), IGNORE))
    assert loss == 0.0
    assert not dx.any()


@pytest.mark.parametrize("scale", [2.0**-14, 1.0, 2.0**12])
def test_in_fp16_only_the_product_with_the_head_is_rounded(case, scale):
    x, head, labels = (one.half() if one.is_floating_point() else one for one in case)
    leaf = x.double().requires_grad_()
    reference = functional.cross_entropy(leaf @ head.double().t(), labels, reduction="sum")
    (expected,) = torch.autograd.grad(reference * scale, leaf)
    dx = torch.full_like(x, float("nan"))
    buffers = Buffers(torch.float16, torch.device("cpu"))
    factor = torch.tensor(scale)
    loss = PLAIN.cross_entropy(x, head, labels, scale=factor, dx=dx, buffers=buffers)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(reference.detach()), rel=1e-3)
    # 11 bits of logits, of their gradients and of dx; 2^-14 puts most gradients below 6e-5, where
    # fp16 has fewer bits
    assert float((dx - expected).norm() / expected.norm()) < (2e-3 if scale >= 1.0 else 2e-2)


def test_a_scale_beyond_fp16_is_an_overflow_and_no_other_number(case):
    x, head, labels = (one.half() if one.is_floating_point() else one for one in case)
    dx, buffers = torch.empty_like(x), Buffers(torch.float16, torch.device("cpu"))
    factor = torch.tensor(2.0**40)
    loss = PLAIN.cross_entropy(x, head, labels, scale=factor, dx=dx, buffers=buffers)
    assert loss.isfinite()
    assert not dx[labels != IGNORE].isfinite().any()
    assert not dx[labels == IGNORE].any()


def test_an_impossible_label_has_a_finite_loss():
    x, head = torch.ones(1, 1), torch.tensor([[500.0], [-500.0]])
    assert float(PLAIN.token_losses(x, head, torch.tensor([1]), BUFFERS)) == pytest.approx(1000.0)
    loss, dx = loss_and_gradient(x, head, torch.tensor([1]))
    assert loss == pytest.approx(1000.0)
    assert float(dx) == pytest.approx(1000.0)
