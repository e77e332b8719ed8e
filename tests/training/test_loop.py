"""The loop: against plain torch, cut into forward passes, with what it says and saves."""

from pathlib import Path

import pytest
import torch
import transformers

from repotune.errors import DiskFull, TrainingError
from repotune.events import CheckpointSaved, Notice, StageDone, StageStarted, StepDone
from repotune.training import latest, load, total_steps
from repotune.training.order import SampleOrder

from .runs import losses, run, same, stop_after
from .tiny import TOKENS, WIDTH, TinyModel, TinyRows, flat_views

ROWS = "model.embed_tokens.token_adapter.trainable_tokens_delta"


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


def test_rows_of_new_tokens_are_not_drawn_to_zero(tmp_path):
    class Taught(TinyModel):
        def __init__(self):
            super().__init__()
            self.flat, self.masters = flat_views({**self.masters, ROWS: torch.ones(4, WIDTH)})
            self.refresh()

        def loss(self, row, dropout_seed=None):
            # The rows of tokens that no text holds: their gradient is zero.
            return super().loss(row, dropout_seed) + 0.0 * self.copies[ROWS].sum()

    model, *_ = run(tmp_path, model=Taught(), weight_decay=0.5)
    assert torch.equal(model.masters[ROWS], torch.ones(4, WIDTH))
    plain, *_ = run(tmp_path / "plain", weight_decay=0.5)
    assert all(torch.equal(model.masters[name], plain.masters[name]) for name in plain.masters)


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
