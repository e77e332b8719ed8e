"""The loop: against plain torch, stopped and resumed, cut into forward passes, told to stop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from repotune.errors import DiskFull, TrainingError
from repotune.events import CheckpointSaved, Notice, StageDone, StageStarted, StepDone
from repotune.training import LossScale, latest, load, total_steps, train
from repotune.training.order import SampleOrder

from .tiny import TOKENS, TinyModel, TinyRows, settings


def run(folder, *, dropout=0.0, rows=None, model=None, **changes):
    """The trained model, its result, its events, the rows it read."""
    model, events = TinyModel(dropout=dropout) if model is None else model, []
    rows = TinyRows() if rows is None else rows
    options = {"emit": events.append, "dropout": dropout > 0, **changes}
    result = train(model, rows, **settings(folder, **options))
    return model, result, events, rows.read


def losses(events):
    return [event.loss for event in events if isinstance(event, StepDone)]


def resumed(folder, **changes):
    path = latest(folder, lambda event: None)
    state = load(path, like=TinyModel().lora_state(), fingerprint="tiny")
    return run(folder, resume_from=state, **changes)


def stop_after(steps):
    """An ``emit`` and its ``should_stop``, which says yes once ``steps`` are done."""
    events = []
    return events, lambda: any(isinstance(e, StepDone) and e.step == steps for e in events)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def test_twenty_steps_equal_a_plain_torch_loop(tmp_path):
    model, result, events, _ = run(tmp_path, steps=20)

    reference, rows = TinyModel(), TinyRows()
    weights = list(reference.copies.values())
    optimizer = torch.optim.AdamW(weights, lr=0.05, weight_decay=0.01)
    scheduler = transformers.get_scheduler(
        "cosine", optimizer, num_warmup_steps=4, num_training_steps=20
    )
    order = SampleOrder(rows, seed=7, dropout=False)
    expected, norms = [], []
    for step in range(20):
        batch = [sample.row for sample in order.batch(step * 4, 4)]
        targets = sum(int((row.labels >= 0).sum()) for row in batch)
        loss = torch.stack([reference.loss(row) for row in batch]).sum() / targets
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights, 1.0)))
        optimizer.step()
        scheduler.step()
        expected.append(float(loss.detach()))

    # fp32 over 20 steps: sums in another order
    assert losses(events) == pytest.approx(expected, rel=1e-4)
    assert [e.grad_norm for e in events if isinstance(e, StepDone)] == pytest.approx(
        norms, rel=1e-3
    )
    for got, weight in zip(model.lora_state().values(), weights, strict=True):
        torch.testing.assert_close(got, weight.detach(), rtol=1e-3, atol=1e-4)
    assert expected[-1] < 0.8 * expected[0]  # there was something to learn
    assert (result.first_loss, result.last_loss) == (losses(events)[0], losses(events)[-1])
    assert result.tokens == 20 * 4 * TOKENS


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(stop, dropout, tmp_path):
    straight, whole, straight_events, straight_read = run(tmp_path / "a", dropout=dropout)

    first_events, should_stop = stop_after(stop)
    _, first, _, first_read = run(
        tmp_path / "b", dropout=dropout, emit=first_events.append, should_stop=should_stop
    )
    assert (first.interrupted, first.steps) == (True, stop)
    assert first.checkpoint == f"step-{stop:06d}"
    second, result, second_events, second_read = resumed(tmp_path / "b", dropout=dropout)

    assert same(second.lora_state(), straight.lora_state())
    assert losses(first_events) + losses(second_events) == losses(straight_events)
    assert first_read + second_read == straight_read  # the very same batches follow
    assert (result.first_loss, result.last_loss) == (whole.first_loss, whole.last_loss)
    assert not result.interrupted
    ends = [
        load(latest(folder, print), like=straight.lora_state(), fingerprint="tiny")
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert same(ends[0].exp_avg, ends[1].exp_avg)
    assert same(ends[0].exp_avg_sq, ends[1].exp_avg_sq)
    assert ends[0].cursor == ends[1].cursor == 8 * 4


def test_stopped_at_step_37_of_100_it_is_the_uninterrupted_run_bit_for_bit(tmp_path):
    changes = {"steps": 100, "dropout": 0.2, "lr_scheduler_type": "linear"}
    straight, whole, straight_events, straight_read = run(tmp_path / "a", **changes)
    first_events, should_stop = stop_after(37)
    run(tmp_path / "b", emit=first_events.append, should_stop=should_stop, **changes)
    second, result, second_events, read = resumed(tmp_path / "b", **changes)
    assert losses(first_events) + losses(second_events) == losses(straight_events)
    assert same(second.lora_state(), straight.lora_state())
    assert result.tokens == whole.tokens
    # The next 8 batches are the same, and no sample of an epoch is repeated or skipped.
    assert read[: 8 * 4] == straight_read[37 * 4 :][: 8 * 4]
    epochs = [straight_read[at : at + 10] for at in range(0, 400, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)


@pytest.mark.parametrize(("batch_size", "rows_per_pass"), [(1, 1), (2, 2), (4, 4), (8, 8)])
def test_a_global_batch_is_the_same_however_it_is_cut(batch_size, rows_per_pass, tmp_path):
    _, _, reference, expected = run(tmp_path / "a", batch_size=8, gradient_accumulation_steps=1)
    _, _, events, read = run(
        tmp_path / "b",
        batch_size=batch_size,
        gradient_accumulation_steps=8 // batch_size,
        rows_per_pass=rows_per_pass,
    )
    assert read == expected
    assert losses(events) == pytest.approx(losses(reference), rel=1e-5)  # sums in another order


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_four_times_one_is_one_times_four(dropout, tmp_path):
    runs = [
        run(
            tmp_path / f"{batch_size}",
            batch_size=batch_size,
            gradient_accumulation_steps=4 // batch_size,
            dropout=dropout,
        )
        for batch_size in (4, 2, 1)
    ]
    for model, _, events, read in runs[1:]:
        assert losses(events) == losses(runs[0][2])
        assert same(model.lora_state(), runs[0][0].lora_state())
        assert read == runs[0][3]


def test_dropout_reaches_the_model(tmp_path):
    assert losses(run(tmp_path / "a")[2]) != losses(run(tmp_path / "b", dropout=0.4)[2])


def test_steps_are_told_with_their_learning_rate_and_time(tmp_path):
    _, result, events, _ = run(tmp_path, lr_scheduler_type="linear", warmup_ratio=0.0)
    assert isinstance(events[0], StageStarted)
    assert isinstance(events[-1], StageDone)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(e.step, e.steps) for e in steps] == [(step, 8) for step in range(1, 9)]
    assert [e.learning_rate for e in steps] == pytest.approx([0.05 * (8 - i) / 8 for i in range(8)])
    assert all(e.tokens == 4 * TOKENS and e.tokens_per_second > 0 for e in steps)
    assert steps[0].seconds_left > 0
    assert steps[-1].seconds_left == 0
    assert result.seconds > 0


def test_checkpoints_come_every_save_steps_and_at_the_end_and_the_last_two_stay(tmp_path):
    _, result, events, _ = run(tmp_path, save_steps=3)
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert [event.step for event in saved] == [3, 6, 8]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000006", "step-000008"]
    assert (Path(saved[-1].path).name, result.checkpoint) == ("step-000008", "step-000008")


def test_being_told_to_stop_is_heard_within_the_step_and_said_once(tmp_path):
    _, result, events, read = run(tmp_path, should_stop=lambda: True)
    assert (result.interrupted, result.steps, len(read)) == (True, 1, 4)
    kinds = [type(event) for event in events]
    assert kinds == [StageStarted, Notice, StepDone, CheckpointSaved, StageDone]
    assert "what is done is saved first" in events[1].message


@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_long_step_is_dropped_for_a_stop_and_done_again_later(
    steps_before, tmp_path, monkeypatch
):
    monkeypatch.setattr("repotune.training.pace.STOP_SECONDS", -1.0)  # each step is too long
    straight, _, _, _ = run(tmp_path / "a", dropout=0.3)
    _, result, events, _ = run(
        tmp_path / "b",
        dropout=0.3,
        save_steps=100,
        # In the middle of the second of four passes.
        should_stop=lambda: len(model_passes) == 4 * steps_before + 2,
        model=Counting(model_passes := [], dropout=0.3),
    )
    assert (result.interrupted, result.steps) == (True, steps_before)
    assert len(losses(events)) == steps_before
    if steps_before:
        assert result.checkpoint == f"step-{steps_before:06d}"
        second, _, _, _ = resumed(tmp_path / "b", dropout=0.3)
    else:
        assert result.checkpoint is None
        second, _, _, _ = run(tmp_path / "b", dropout=0.3)
    assert same(second.lora_state(), straight.lora_state())


class Counting(TinyModel):
    def __init__(self, passes, **options):
        super().__init__(**options)
        self.passes = passes

    def loss_and_grad(self, row, **options):
        self.passes.append(row)
        return super().loss_and_grad(row, **options)


def test_a_stop_in_the_last_step_is_a_stop_although_nothing_is_left_to_train(tmp_path):
    _, result, _, _ = run(tmp_path, steps=1, should_stop=lambda: True)
    assert (result.interrupted, result.steps) == (True, 1)


def test_a_finished_run_resumes_to_the_same_result(tmp_path):
    trained, first, _, _ = run(tmp_path)
    model, again, events, read = resumed(tmp_path)
    assert same(model.lora_state(), trained.lora_state())
    assert (again.steps, again.checkpoint, again.tokens) == (8, first.checkpoint, first.tokens)
    assert (again.first_loss, again.last_loss) == (first.first_loss, first.last_loss)
    assert read == losses(events) == []


def test_a_damaged_checkpoint_newer_than_the_resumed_one_goes_with_the_next_save(tmp_path):
    run(tmp_path, save_steps=3)
    damaged = tmp_path / "step-000008" / "state.json"
    damaged.write_text("{}")
    _, result, _, _ = resumed(tmp_path, save_steps=1)
    assert result.steps == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000007", "step-000008"]
    assert latest(tmp_path, print).name == "step-000008"


def test_a_corpus_smaller_than_a_step_wraps_around_and_says_so(tmp_path):
    _, _, events, read = run(tmp_path, rows=TinyRows(3), steps=3)
    assert [sorted(read[start : start + 3]) for start in (0, 3, 6, 9)] == [[0, 1, 2]] * 4
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "3 rows and a step takes 4" in notices[0]


def test_no_rows_are_an_error(tmp_path):
    with pytest.raises(TrainingError, match="no rows"):
        run(tmp_path, rows=TinyRows(0))


def test_an_adapter_that_learned_nothing_is_not_saved(tmp_path):
    with pytest.raises(TrainingError, match="every LoRA B matrix is still zero"):
        run(tmp_path, learning_rate=1e-300)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("rows_per_pass", [1, 2])
def test_a_loss_that_is_not_a_number_ends_the_run_at_the_last_good_step(tmp_path, rows_per_pass):
    class Poisoned(TinyModel):
        passes = 0

        def loss_and_grad(self, row, **options):
            self.passes += 1
            loss = super().loss_and_grad(row, **options)
            return loss * float("nan") if self.passes == 5 * 4 // rows_per_pass + 1 else loss

    bad = [sample.index for sample in SampleOrder(TinyRows(), seed=7, dropout=False).batch(20, 4)]
    named = " ".join(("row", *map(str, bad[:1])) if rows_per_pass == 1 else ("rows", "{}, {}"))
    words = rf"loss became nan at step 6 \(.*, {named.format(*bad)}\), and .*lower learning_rate"
    with pytest.raises(TrainingError, match=words):
        run(tmp_path / "a", model=Poisoned(), rows_per_pass=rows_per_pass)
    events, should_stop = stop_after(5)
    whole = {"rows_per_pass": rows_per_pass, "emit": events.append, "should_stop": should_stop}
    run(tmp_path / "b", **whole)
    like = TinyModel().lora_state()
    broken, stopped = (
        load(latest(tmp_path / name, lambda event: None), like=like, fingerprint="tiny")
        for name in ("a", "b")
    )
    assert broken.step == stopped.step == 5
    assert same(broken.lora, stopped.lora)


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


def test_a_disk_without_room_is_an_error_before_the_first_step(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1_500_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    # each checkpoint: under 1 KB of numbers, and 1 MiB set aside for the rest
    with pytest.raises(DiskFull, match=r"need 3 MB, and 2 MB is free .*: free 2 MB more"):
        run(tmp_path, rows=(rows := TinyRows()), save_steps=1)
    assert rows.read == []
    run(tmp_path, save_steps=100)  # one checkpoint alone fits


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [
        (1.0, None, 3),
        (2.0, None, 5),
        (0.01, None, 1),
        (1.1, None, 3),
        (1.0, 75, 75),
        (0.4, None, 1),
    ],
)
def test_total_steps_cover_the_epochs(epochs, max_steps, expected):
    got = total_steps(
        10,
        batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=epochs,
        max_steps=max_steps,
    )
    assert got == expected


def test_total_steps_are_not_raised_by_rounding():
    # 1.1 * 10 is 11.000000000000002
    assert (
        total_steps(
            10, batch_size=1, gradient_accumulation_steps=1, num_train_epochs=1.1, max_steps=None
        )
        == 11
    )
