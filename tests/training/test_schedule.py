"""The learning rate against transformers' own schedulers."""

import pytest
import torch
import transformers

from repotune.training.schedule import learning_rate_at, warmup_steps

NAME_THERE = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("kind", NAME_THERE)
@pytest.mark.parametrize(("steps", "warmup"), [(75, 4), (10, 0), (1, 0), (1, 1), (7, 7), (40, 39)])
def test_the_learning_rate_is_that_of_transformers(kind, steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    scheduler = transformers.get_scheduler(
        NAME_THERE[kind], optimizer, num_warmup_steps=warmup, num_training_steps=steps
    )
    for step in range(steps):
        ours = learning_rate_at(step, steps=steps, warmup=warmup, peak=3e-4, kind=kind)
        # both are products of a few doubles
        assert ours == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimizer.step()
        scheduler.step()


def test_the_warmup_is_a_share_of_the_steps():
    assert [warmup_steps(0.05, steps) for steps in (1, 9, 75, 1000)] == [0, 0, 4, 50]
    assert warmup_steps(0.0, 1000) == 0
