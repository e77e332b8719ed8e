"""What is kept of a run's checkpoints, and a disk that is full for a while."""

import errno
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repotune.errors import DiskFull
from repotune.events import CheckpointSaved, Notice
from repotune.training import Checkpoint, Heldout, damages, latest, load, train
from repotune.training.checkpoint import checkpoint_path, save
from repotune.training.saver import HostCopy, Saver

from .tiny import A, B, TinyModel, TinyRows, settings


def heldout(losses, *, every=1, patience=None):
    return Heldout(measure=iter(losses).__next__, every_steps=every, patience=patience)


def notices(events):
    return [event.message for event in events if isinstance(event, Notice)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_best_and_the_last_two_stay(tmp_path):
    losses = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    train(TinyModel(), TinyRows(), **settings(tmp_path, steps=6, heldout=heldout(losses)))
    assert names(tmp_path) == ["step-000002", "step-000005", "step-000006"]
    assert set(damages(tmp_path).values()) == {None}


def test_the_weights_at_the_end_are_those_of_the_best_step(tmp_path):
    at_two = TinyModel()
    train(at_two, TinyRows(), **settings(tmp_path / "two", steps=6, **stop_at(2)))
    model = TinyModel()
    measure = heldout([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    result = train(model, TinyRows(), **settings(tmp_path / "all", steps=6, heldout=measure))
    assert (result.best_step, result.heldout_loss, result.steps) == (2, 1.0, 6)
    for name, tensor in at_two.lora_state().items():
        assert torch.equal(model.lora_state()[name], tensor)
        assert torch.equal(model.copies[name], tensor)  # refreshed, so it computes with them


def stop_at(step):
    done = []
    return {
        "emit": done.append,
        "should_stop": lambda: any(getattr(event, "step", 0) == step for event in done),
    }


def test_a_damaged_best_is_named_and_the_last_is_exported(tmp_path):
    events, losses = [], iter([1.0, 2.0, 2.0])

    def measure():
        loss = next(losses)
        if loss == 2.0:
            (checkpoint_path(tmp_path, 1) / "lora.safetensors").write_bytes(b"")
        return loss

    plain, model = TinyModel(), TinyModel()
    train(plain, TinyRows(), **settings(tmp_path / "plain", steps=3))
    watched = Heldout(measure=measure, every_steps=1, patience=None)
    options = {"steps": 3, "heldout": watched, "emit": events.append}
    train(model, TinyRows(), **settings(tmp_path, **options))
    (said,) = notices(events)
    assert "step-000001 is damaged: lora.safetensors" in said
    for name, tensor in plain.lora_state().items():
        assert torch.equal(model.lora_state()[name], tensor)


class FullFor:
    """A disk on which the files of a checkpoint find no room for the first ``times`` tries."""

    def __init__(self, monkeypatch, times):
        self.left, self.pauses, real = times, 0, os.fsync

        def fsync(descriptor):
            if self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    def pause(self):
        self.pauses += 1
        self.left -= 1
        return True


def test_a_full_disk_is_waited_for_and_the_run_goes_on(tmp_path, monkeypatch):
    disk, events, model = FullFor(monkeypatch, 3), [], TinyModel()
    options = {"save_steps": 4, "emit": events.append, "pause": disk.pause}
    result = train(model, TinyRows(), **settings(tmp_path, **options))
    assert (result.steps, disk.pauses) == (8, 3)
    (said,) = notices(events)  # once, however long it takes
    assert said.startswith("Paused. The disk is full, so ")
    assert "what was saved before is whole: free some space and the run goes on by itself" in said
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [4, 8]
    monkeypatch.undo()
    plain = TinyModel()
    train(plain, TinyRows(), **settings(tmp_path / "plain"))
    for name, tensor in plain.lora_state().items():
        assert torch.equal(model.lora_state()[name], tensor)


def test_a_stop_while_the_disk_is_full_ends_with_the_sentence_and_loses_nothing(
    tmp_path, monkeypatch
):
    train(TinyModel(), TinyRows(), **settings(tmp_path, steps=8, **stop_at(3)))
    FullFor(monkeypatch, 10**9)
    with pytest.raises(DiskFull, match="later with --resume"):
        train(TinyModel(), TinyRows(), **settings(tmp_path, save_steps=1))
    monkeypatch.undo()
    assert latest(tmp_path, print).name == "step-000003"
    assert not list(Path(tmp_path).glob(".*"))


def state(step, value):
    tensors = [{A: torch.full((3, 8), value), B: torch.full((8, 3), value)} for _ in range(3)]
    return Checkpoint(
        step=step, cursor=4 * step, seed=7, fingerprint="tiny", tokens=1, first_loss=1.0,
        last_loss=1.0, lora=tensors[0], exp_avg=tensors[1], exp_avg_sq=tensors[2],
    )  # fmt: skip


def test_a_save_goes_on_beside_the_training_and_is_of_the_step_it_began_at(tmp_path, monkeypatch):
    may_write, events = threading.Event(), []

    def slow_disk(folder, checkpoint):
        assert may_write.wait(60)
        return save(folder, checkpoint)

    monkeypatch.setattr("repotune.training.saver.save", slow_disk)
    live = state(1, 1.0)
    saver = Saver(
        tmp_path, replace(live, step=0), saves=3, keeps_best=False, emit=events.append,
        pause=lambda: False,
    )  # fmt: skip
    saver.begin(live, learned=True)
    for tensors in (live.lora, live.exp_avg, live.exp_avg_sq):  # the next step changes them all
        for tensor in tensors.values():
            tensor.add_(1.0)
    saver.tell()
    assert (saver.has(1), saver.newest, events) == (True, None, [])
    may_write.set()
    saver.finish()
    assert saver.newest == "step-000001"
    assert [event.step for event in events] == [1]
    saved = load(tmp_path / "step-000001", like=live.lora, fingerprint="tiny")
    for tensors in (saved.lora, saved.exp_avg, saved.exp_avg_sq):
        assert all((tensor == 1.0).all() for tensor in tensors.values())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is resident")
def test_the_memory_of_the_copy_is_there_before_the_first_save():
    # 200 MB: more than an allocator keeps of what other tests have given back.
    numbers = 2**24
    state = {"a.weight": torch.ones(numbers)}
    live = Checkpoint(
        step=1, cursor=0, seed=0, fingerprint="", tokens=0, first_loss=1.0, last_loss=1.0,
        lora=state, exp_avg=state, exp_avg_sq=state,
    )  # fmt: skip
    before = resident_bytes()
    copy = HostCopy(live)
    ready = resident_bytes()
    assert ready - before > 2.9 * 4 * numbers
    first = copy.of(live)
    second = copy.of(replace(live, step=2))
    assert resident_bytes() - ready < numbers
    assert torch.equal(second.exp_avg["a.weight"], state["a.weight"])
    assert first.lora["a.weight"].data_ptr() == second.lora["a.weight"].data_ptr()


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_training_that_breaks_off_leaves_the_save_whole(tmp_path):
    saver = Saver(
        tmp_path, replace(state(1, 1.0), step=0), saves=3, keeps_best=False,
        emit=lambda event: None, pause=lambda: False,
    )  # fmt: skip
    saver.begin(state(5, 2.0), learned=True)
    saver.abandon()
    assert saver.newest == latest(tmp_path, print).name == "step-000005"
