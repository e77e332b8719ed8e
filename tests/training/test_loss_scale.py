"""The loss scale against torch's own, step by step."""

import pytest
import torch

from repotune.training.loss_scale import GROWTH_INTERVAL, LossScale


def torchs(overflows):
    """(scale, steps since it changed) of torch's scaler after each step."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu")
    states = []
    for overflow in overflows:
        scaler.scale(torch.zeros(()))  # without it there is nothing to update
        weight.grad = torch.tensor([float("inf") if overflow else 1.0])
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        states.append((state["scale"], state["_growth_tracker"]))
    return states


@pytest.mark.parametrize("overflow_at", [(), (0, 1, 2), (5, 1500), (1998, 1999, 2000)], ids=str)
def test_it_moves_as_torchs_does(overflow_at):
    overflows = [step in overflow_at for step in range(GROWTH_INTERVAL + 60)]
    scale, states = LossScale(), []
    for overflow in overflows:
        scale = scale.after(overflow)
        states.append((scale.value, scale.clean_steps))
    assert states == torchs(overflows)
    assert scale.skipped == len(overflow_at)
    assert len({value for value, _ in states}) > 1  # it moved at all
