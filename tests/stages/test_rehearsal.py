"""The whole way in small: it leaves nothing behind, and what would break later breaks now."""

import signal

import pytest
import torch

from repotune.errors import RunError
from repotune.events import Notice, StageDone, StageStarted
from repotune.records import Range
from repotune.stages import is_worth_it, rehearse, train_on
from repotune.stages import rehearsal as room

from .jobs import nothing, ready


@pytest.fixture
def one(tmp_path, source_tree, tiny_model):
    return ready(tmp_path / "run", source_tree, tiny_model)


def go(one, emit=nothing):
    rehearse(one.folder, one.job, one.decoder, one.rows, one.passes, emit)


def copy(decoder):
    return {name: tensor.clone() for name, tensor in decoder.lora_state().items()}


def test_it_goes_the_whole_way_and_leaves_nothing_behind(one):
    events, before = [], copy(one.decoder)
    left = sorted(one.folder.path.parent.iterdir())
    go(one, events.append)
    assert [type(event) for event in events] == [StageStarted, StageDone]  # no steps of the run's
    assert sorted(one.folder.path.parent.iterdir()) == left
    assert not one.folder.checkpoints.exists()
    for name, tensor in one.decoder.lora_state().items():
        assert torch.equal(tensor, before[name])


def test_a_run_after_it_is_the_run_without_it(one, tmp_path, source_tree, tiny_model):
    go(one)
    other = ready(tmp_path / "other", source_tree, tiny_model)
    for each in (one, other):
        train_on(each.folder, each.job, each.decoder, each.rows, each.passes, nothing, memory=int)
    for name, tensor in one.decoder.lora_state().items():
        assert torch.equal(tensor, other.decoder.lora_state()[name])


@pytest.mark.parametrize(
    ("broken", "part"),
    [("train_once", "training and saving"), ("load", "resuming"), ("export_adapter", "exporting"),
     ("load_adapter", "loading the adapter"), ("complete_at", "completing code")],
)  # fmt: skip
def test_what_breaks_is_one_sentence_that_names_the_part(one, broken, part, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no kernel image is available.")

    before = copy(one.decoder)
    monkeypatch.setattr(room, broken, fail)
    with pytest.raises(RunError, match=f"failed at {part}.*no kernel image.*--no-rehearsal"):
        go(one)
    for name, tensor in one.decoder.lora_state().items():
        assert torch.equal(tensor, before[name])
    assert not list(one.folder.path.parent.glob(".*"))


def test_an_export_that_loses_the_weights_is_found(one, monkeypatch):
    monkeypatch.setattr(room, "load_adapter", lambda *args, **options: None)
    with pytest.raises(RunError, match="loaded adapter is not the one that was exported"):
        go(one)


def test_ctrl_c_ends_it(one, monkeypatch):
    real = room.latest

    def press(folder, emit):
        found = real(folder, emit)
        return found if found is None else signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(room, "latest", press)
    with pytest.raises(KeyboardInterrupt):
        go(one)


def test_only_long_runs_that_begin_are_rehearsed(one, tmp_path, source_tree, tiny_model):
    def hours(expected):
        return type("Plan", (), {"hours": Range(low=0, expected=expected, high=expected)})

    assert is_worth_it(one.folder, one.job, one.rows, hours(0.2))
    assert not is_worth_it(one.folder, one.job, one.rows, hours(0.1))
    assert not is_worth_it(one.folder, one.job, one.rows, None)  # 4 steps
    other = ready(tmp_path / "long", source_tree, tiny_model, max_steps=101)
    assert is_worth_it(other.folder, other.job, other.rows, None)
    unwanted = ready(tmp_path / "unwanted", source_tree, tiny_model, rehearsal=False)
    assert not is_worth_it(unwanted.folder, unwanted.job, unwanted.rows, hours(0.2))
    (one.folder.checkpoints / "step-000002").mkdir(parents=True)
    assert not is_worth_it(one.folder, one.job, one.rows, hours(0.2))


def test_what_it_healed_the_run_begins_with(tmp_path, source_tree, tiny_model, monkeypatch):
    changes = {"max_seq_length": 512, "allow_shorter_rows": True}
    one = ready(tmp_path / "run", source_tree, tiny_model, **changes)
    monkeypatch.setattr("repotune.stages.tuning.lower_policy", lambda job, tokens, than: None)
    real, sizes, events = one.decoder.loss_and_grad, [], []

    def no_room_for_512(row, **options):
        sizes.append(len(row.input_ids))
        if len(row.input_ids) > 256:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(row, **options)

    monkeypatch.setattr(one.decoder, "loss_and_grad", no_room_for_512)
    allowed = rehearse(one.folder, one.job, one.decoder, one.rows, one.passes, events.append)
    assert (allowed.rows, allowed.cuts) == (1, 2)
    assert sizes[0] == 512
    assert set(sizes[1:]) == {256}  # once, although it resumes on the way
    (fact,) = one.folder.state().facts["healed"]
    assert (fact["stage"], fact["tokens_per_pass"]) == ("rehearsal", 256)
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any("begins with what fitted in the rehearsal: 1 × 256 tokens" in one for one in said)
    sizes.clear()
    done = train_on(one.folder, one.job, one.decoder, one.rows, allowed, events.append, memory=int)
    assert done.passes == allowed
    assert set(sizes) == {256}  # it does not run out of memory again


def test_notices_of_the_training_are_passed_on(one, monkeypatch):
    events = []
    monkeypatch.setattr(
        "repotune.stages.tuning.slowed_by", lambda *, on_gpu: ("The computer is slow.",)
    )
    go(one, events.append)
    assert "The computer is slow." in [e.message for e in events if isinstance(e, Notice)]
