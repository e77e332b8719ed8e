"""AdamW and clipping against torch's defaults."""

import pytest
import torch

from repotune.training.optimizer import CHUNK, AdamW

from .tiny import flat_views

FINITE = torch.ones(2)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(5, 3 + i, generator=generator) for i in range(3)}


def set_gradients(tensors, seed):
    for tensor, gradient in zip(tensors, weights(seed).values(), strict=True):
        if tensor.grad is None:
            tensor.grad = gradient
        else:
            tensor.grad.copy_(gradient)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_many_steps_equal_torch_without_fusing(weight_decay):
    (flat, ours), theirs = flat_views(weights()), list(weights().values())
    optimizer = AdamW(flat, ours, weight_decay=weight_decay)
    reference = torch.optim.AdamW(theirs, weight_decay=weight_decay, foreach=False)
    for step in range(1, 30):
        for tensors in (list(ours.values()), theirs):
            set_gradients(tensors, seed=step)
        optimizer.step(1e-2 / step, figures=FINITE)
        reference.param_groups[0]["lr"] = 1e-2 / step
        reference.step()
    for tensor, expected in zip(ours.values(), theirs, strict=True):
        # fp32, the same operations in another order
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("on_host", [False, True])
def test_what_is_not_decayed_is_a_group_of_its_own(on_host, monkeypatch):
    monkeypatch.setattr("repotune.training.optimizer.CHUNK", 7)  # a part ends within each of them
    (flat, ours), theirs = flat_views(weights()), list(weights().values())
    optimizer = AdamW(flat, ours, weight_decay=0.5, on_host=on_host, undecayed=["w1", "w2"])
    reference = torch.optim.AdamW(
        [{"params": theirs[:1]}, {"params": theirs[1:], "weight_decay": 0.0}], weight_decay=0.5
    )
    for step in range(1, 30):
        for tensors in (list(ours.values()), theirs):
            set_gradients(tensors, seed=step)
        optimizer.step(1e-2, figures=FINITE)
        reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = 1e-2
        reference.step()
    for tensor, expected in zip(ours.values(), theirs, strict=True):
        # fp32, the same operations in another order
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):  # they must be the last ones
        AdamW(flat, ours, weight_decay=0.5, undecayed=["w0"])


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_is_by_the_norm_of_all_gradients(max_norm):
    flat_weights, tensors = flat_views(weights())
    set_gradients(tensors.values(), seed=1)
    flat = torch.cat([gradient.flatten() for gradient in weights(1).values()])
    norm = AdamW(flat_weights, tensors, weight_decay=0.0).clip(max_norm)
    assert norm == pytest.approx(float(flat.double().norm()), rel=1e-6)
    clipped = torch.cat([tensor.grad.flatten() for tensor in tensors.values()])
    torch.testing.assert_close(clipped, flat * min(1.0, max_norm / norm), rtol=1e-5, atol=0)


def test_a_restored_optimizer_goes_on_bit_for_bit():
    flat, tensors = flat_views(weights())
    optimizer = AdamW(flat, tensors, weight_decay=0.1)
    for step in (1, 2, 3):
        set_gradients(tensors.values(), seed=step)
        optimizer.step(0.01, figures=FINITE)
    flat_copy, copies = flat_views(tensors)
    restored = AdamW(flat_copy, copies, weight_decay=0.1)
    restored.restore(steps=3, exp_avg=optimizer.exp_avg, exp_avg_sq=optimizer.exp_avg_sq)
    for one, state in ((optimizer, tensors), (restored, copies)):
        set_gradients(state.values(), seed=4)
        one.step(0.01, figures=FINITE)
    assert all(torch.equal(tensors[name], copies[name]) for name in tensors)
    assert all(torch.equal(optimizer.exp_avg[n], restored.exp_avg[n]) for n in tensors)


def test_gradients_are_zeroed_where_they_lie():
    flat, tensors = flat_views(weights())
    set_gradients(tensors.values(), seed=1)
    buffers = [tensor.grad for tensor in tensors.values()]
    AdamW(flat, tensors, weight_decay=0.0).zero_grad()
    assert not any(buffer.any() for buffer in buffers)
    assert all(t.grad is buffer for t, buffer in zip(tensors.values(), buffers, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_does_not_count(bad):
    (flat, tensors), (other_flat, others) = flat_views(weights()), flat_views(weights())
    optimizer, untouched = (
        AdamW(one, views, weight_decay=0.1)
        for one, views in ((flat, tensors), (other_flat, others))
    )
    for one, views in ((optimizer, tensors), (untouched, others)):
        set_gradients(views.values(), seed=1)
        one.step(0.01, figures=FINITE)
    optimizer.step(0.01, figures=torch.tensor([1.0, bad]))
    assert torch.equal(flat, other_flat)
    for one, views in ((optimizer, tensors), (untouched, others)):
        set_gradients(views.values(), seed=2)
        one.step(0.01, figures=FINITE)
    assert torch.equal(flat, other_flat)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_moments_on_the_host_give_the_same_weights_bit_for_bit(device):
    size, results = CHUNK + 5, []
    for on_host in (False, True):
        generator = torch.Generator().manual_seed(0)
        flat = torch.randn(size, generator=generator).to(device)
        flat.grad = torch.zeros_like(flat)
        optimizer = AdamW(flat, {"w": flat}, weight_decay=0.1, on_host=on_host)
        for _ in range(3):
            flat.grad.copy_(torch.randn(size, generator=generator))
            optimizer.step(0.01, figures=FINITE.to(device))
        results.append((flat, optimizer.exp_avg["w"].cpu(), optimizer.exp_avg_sq["w"].cpu()))
    for resident, offloaded in zip(*results, strict=True):
        assert torch.equal(resident, offloaded)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_moments_that_move_to_the_host_on_the_way_change_nothing(device):
    results = []
    for moves in (False, True):
        generator = torch.Generator().manual_seed(0)
        flat = torch.randn(CHUNK + 5, generator=generator).to(device)
        flat.grad = torch.zeros_like(flat)
        optimizer = AdamW(flat, {"w": flat}, weight_decay=0.1)
        seen = optimizer.exp_avg  # as a checkpoint sees it
        for step in range(3):
            if moves and step == 1:
                optimizer.move_to_host()
            flat.grad.copy_(torch.randn(CHUNK + 5, generator=generator))
            optimizer.step(0.01, figures=FINITE.to(device))
        results.append((flat, seen["w"].cpu(), optimizer.exp_avg_sq["w"].cpu()))
    for stayed, moved in zip(*results, strict=True):
        assert torch.equal(stayed, moved)
