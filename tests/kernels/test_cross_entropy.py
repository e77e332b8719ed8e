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


def test_loss_and_gradient_equal_full_logits_in_fp64(chunk, case):
    x, head, labels = case
    leaf = x.double().requires_grad_()
    reference = functional.cross_entropy(leaf @ head.double().t(), labels, reduction="sum")
    (expected,) = torch.autograd.grad(reference, leaf)
    loss, dx = PLAIN.cross_entropy(x, head, labels, BUFFERS)
    assert float(loss) == pytest.approx(float(reference.detach()), rel=1e-6)
    assert float((dx - expected).norm() / expected.norm()) < 1e-6
    assert not dx[labels == IGNORE].any()


def test_token_losses_are_the_terms_of_the_sum(chunk, case):
    x, head, labels = case
    losses = PLAIN.token_losses(x, head, labels, BUFFERS)
    expected = functional.cross_entropy(x @ head.t(), labels, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-5)


def test_a_row_without_labels_costs_nothing(case):
    x, head, _ = case
    loss, dx = PLAIN.cross_entropy(x, head, torch.full((T,), IGNORE), BUFFERS)
    assert float(loss) == 0.0
    assert not dx.any()


def test_an_impossible_label_has_a_finite_loss():
    x, head = torch.ones(1, 1), torch.tensor([[500.0], [-500.0]])
    assert float(PLAIN.token_losses(x, head, torch.tensor([1]), BUFFERS)) == pytest.approx(1000.0)
