"""The loop told to stop, and resumed: bit for bit what an uninterrupted one does."""

import pytest

from repotune.events import CheckpointSaved, Notice, StageDone, StageStarted, StepDone
from repotune.training import latest, load

from .runs import losses, resumed, run, same, stop_after
from .tiny import TinyModel


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
