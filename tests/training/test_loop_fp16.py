"""The loop with a loss scale: overflows are skipped, and small gradients are not lost."""

from dataclasses import replace

import pytest
import torch

from repotune.errors import TrainingError
from repotune.events import Notice, StageDone, StepDone
from repotune.training import LossScale, latest, load, train
from repotune.training.order import SampleOrder

from .runs import run, same, stop_after
from .tiny import TinyModel, TinyRows, settings


class Half(TinyModel):
    """Whose gradients are rounded to fp16 row by row, as the decoder's products are."""

    def loss_and_grad(self, row, **options):
        before = self.flat.grad.clone()
        self.flat.grad.zero_()
        loss = super().loss_and_grad(row, **options)
        self.flat.grad.copy_(self.flat.grad.half().float().add_(before))
        return loss


def run_half(folder, scale, **changes):
    """As ``run``, in fp16; and the weights after each step."""
    model, events, weights = Half(), [], []

    def listen(event):
        events.append(event)
        if isinstance(event, StepDone):
            weights.append(model.flat.clone())

    options = {"emit": listen, "loss_scale": scale and LossScale(value=scale), **changes}
    result = train(model, TinyRows(), **settings(folder, **options))
    return model, result, events, weights


def test_overflows_are_skipped_as_torchs_scaler_skips_them(tmp_path):
    _, _, events, weights = run_half(tmp_path, 2.0**24, steps=16)

    reference, rows = Half(), TinyRows()
    optimizer = torch.optim.AdamW([reference.flat], lr=0.05, weight_decay=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    steps = [event for event in events if isinstance(event, StepDone)]
    order = SampleOrder(rows, seed=7, dropout=False)
    scales, expected = [], []
    for step in range(16):
        batch = [sample.row for sample in order.batch(step * 4, 4)]
        targets = sum(int((row.labels >= 0).sum()) for row in batch)
        scales.append(scaler.get_scale())
        scaler.scale(torch.zeros(()))  # without it there is nothing to update
        reference.flat.grad.zero_()
        for row in batch:
            reference.loss_and_grad(row, scale=scales[-1] / targets, policy=None, dropout_seed=None)
        optimizer.param_groups[0]["lr"] = steps[step].learning_rate  # see below
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([reference.flat], 1.0)
        scaler.step(optimizer)
        scaler.update()
        reference.refresh()
        expected.append(reference.flat.clone())

    assert [event.loss_scale for event in steps] == scales
    smooth = run(tmp_path / "smooth", steps=16)[2]
    rates = [event.learning_rate for event in smooth if isinstance(event, StepDone)]
    assert [event.learning_rate for event in steps] == rates  # skipped or not
    skipped = [event.grad_norm is None for event in steps]
    assert 3 <= sum(skipped) < 13
    for got, want in zip(weights, expected, strict=True):
        # fp32 over some steps: the same operations in another order
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    start = [Half().flat, *weights]
    for i, skip in enumerate(skipped):
        assert torch.equal(start[i], start[i + 1]) == (skip or steps[i].learning_rate == 0.0)
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert len(notices) == sum(skipped)
    assert notices[0].startswith("The gradient of step 1 overflowed fp16")
    assert "8,388,608 from now on" in notices[0]
    (done,) = [event.summary for event in events if isinstance(event, StageDone)]
    assert f"16 steps ({sum(skipped)} skipped)" in done


@pytest.mark.parametrize("stop", [1, 3, 8, 12])
def test_a_resumed_run_in_fp16_is_bit_for_bit_the_same(tmp_path, stop):
    straight, _, events, _ = run_half(tmp_path / "a", 2.0**24, steps=14)
    assert sum(e.grad_norm is None for e in events if isinstance(e, StepDone)) > 3
    seen, should_stop = stop_after(stop)
    run_half(tmp_path / "b", 2.0**24, steps=14, emit=seen.append, should_stop=should_stop)
    start = load(
        latest(tmp_path / "b", lambda event: None), like=Half().lora_state(), fingerprint="tiny"
    )
    # What fp16 starts with is not asked for again: the checkpoint has the scale.
    resumed, _, rest, _ = run_half(tmp_path / "b", 1.0, steps=14, resume_from=start)
    both = [event for event in [*seen, *rest] if isinstance(event, StepDone)]
    want = [event for event in events if isinstance(event, StepDone)]
    timeless = {"seconds": 0.0, "tokens_per_second": 0.0, "seconds_left": 0.0}
    assert [replace(e, **timeless) for e in both] == [replace(e, **timeless) for e in want]
    assert same(straight.lora_state(), resumed.lora_state())


def test_a_gradient_that_no_scale_saves_ends_the_run(tmp_path):
    class Hopeless(TinyModel):
        def loss_and_grad(self, row, **options):
            loss = super().loss_and_grad(row, **options)
            self.flat.grad[0] = float("inf")
            return loss

    model, events = Hopeless(), []
    changes = {"loss_scale": LossScale(), "steps": 40, "save_steps": 1, "emit": events.append}
    with pytest.raises(TrainingError, match=r"step 17 overflows fp16 .*loss scale of 1, .*fp32"):
        train(model, TinyRows(), **settings(tmp_path, **changes))
    assert torch.equal(model.flat, TinyModel().flat)
    # What was saved before is whole, although nothing was learned yet.
    assert latest(tmp_path, lambda event: None).name == "step-000016"
    assert [e.loss_scale for e in events if isinstance(e, StepDone)][-1] == 2.0


def test_gradients_too_small_for_fp16_are_learned_from_with_a_scale(tmp_path):
    small = {"steps": 3, "warmup_ratio": 0.0}

    class Faint(Half):
        def loss_and_grad(self, row, *, scale, **options):
            return super().loss_and_grad(row, scale=scale * 1e-8, **options)

    def learned(scale):
        model = Faint()
        train(model, TinyRows(), **settings(tmp_path / str(scale), loss_scale=scale, **small))
        return model.flat

    with pytest.raises(TrainingError, match="every LoRA B matrix is still zero"):
        learned(None)
    assert not torch.equal(learned(LossScale()), TinyModel().flat)
