"""Checkpoints that are damaged, foreign, or that the disk refuses."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from repotune.errors import CheckpointError, DiskFull, RepotuneError, RunError
from repotune.training.checkpoint import Checkpoint, latest, load, prune, save
from repotune.training.loss_scale import LossScale

from .tiny import A, B, TinyModel

FILES = ("lora.safetensors", "optimizer.safetensors", "state.json", "digests.json")
LIKE = TinyModel().lora_state()


def state(step, **changes):
    generator = torch.Generator().manual_seed(step)
    lora, exp_avg, exp_avg_sq = (
        {name: torch.randn(t.shape, generator=generator) for name, t in LIKE.items()}
        for _ in range(3)
    )
    return Checkpoint(
        step=step, cursor=4 * step, seed=7, tokens=100 * step, fingerprint="abc",
        first_loss=1 / 3, last_loss=0.1,
        lora=lora, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, **changes,
    )  # fmt: skip


def assert_same(got, expected):
    for part in ("lora", "exp_avg", "exp_avg_sq"):
        one, other = getattr(got, part), getattr(expected, part)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    empty = {"lora": {}, "exp_avg": {}, "exp_avg_sq": {}}
    assert replace(got, **empty) == replace(expected, **empty)


def load_latest(folder):
    return load(latest(folder, lambda event: None), like=LIKE, fingerprint="abc")


def test_what_is_saved_is_loaded(tmp_path):
    path = save(tmp_path / "checkpoints", state(50))
    assert path == tmp_path / "checkpoints" / "step-000050"
    assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
    assert_same(load(path, like=LIKE, fingerprint="abc"), state(50))
    # other tools read it
    tensors = safetensors.torch.load_file(path / "optimizer.safetensors")
    assert tensors.keys() == {f"{n}.{m}" for n in (A, B) for m in ("exp_avg", "exp_avg_sq")}
    assert json.loads((path / "state.json").read_text())["cursor"] == 200


@pytest.mark.parametrize(
    "loss_scale", [None, LossScale(value=2.0**-1, clean_steps=1999, skipped=17)], ids=str
)
def test_the_loss_scale_is_kept(tmp_path, loss_scale):
    path = save(tmp_path, state(50, loss_scale=loss_scale))
    assert_same(load(path, like=LIKE, fingerprint="abc"), state(50, loss_scale=loss_scale))


def test_the_newest_is_found_and_other_names_are_not_checkpoints(tmp_path):
    assert latest(tmp_path / "missing", print) is None
    for step in (90, 100, 1_000_000):
        save(tmp_path, state(step))
    shutil.copytree(tmp_path / "step-000100", tmp_path / ".step-2000000.partial")
    shutil.copytree(tmp_path / "step-000100", tmp_path / "step-2000000.bak")
    assert latest(tmp_path, print).name == "step-1000000"
    assert load_latest(tmp_path).step == 1_000_000


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "first byte flipped": lambda data: flipped(data, 0),
    "middle byte flipped": lambda data: flipped(data, len(data) // 2),
    "last byte flipped": lambda data: flipped(data, len(data) - 1),
    "last byte missing": lambda data: data[:-1],
    "half missing": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "one byte more": lambda data: data + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_found_and_named_and_the_checkpoint_before_is_used(
    file, damage, tmp_path
):
    save(tmp_path, state(25))
    path = save(tmp_path, state(50))
    (path / file).write_bytes(DAMAGES[damage]((path / file).read_bytes()))
    notices = []
    assert latest(tmp_path, notices.append) == tmp_path / "step-000025"
    assert len(notices) == 1
    assert "step-000050 is not used" in notices[0].message
    assert file in notices[0].message
    with pytest.raises(CheckpointError, match=f"{file}.*; remove it to go on from the one before"):
        load(path, like=LIKE, fingerprint="abc")
    assert_same(load_latest(tmp_path), state(25))


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_found_and_named(file, tmp_path):
    path = save(tmp_path, state(50))
    (path / file).unlink()
    notices = []
    assert latest(tmp_path, notices.append) is None
    assert f"step-000050 is not used: {file} cannot be read (No such file" in notices[0].message


def test_every_flipped_byte_of_the_digests_is_found(tmp_path):
    path = save(tmp_path, state(50)) / "digests.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, place))
        assert latest(tmp_path, lambda event: None) is None, place


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ({**LIKE, "other": LIKE[A]}, "other is missing"),
        ({A: LIKE[A]}, f"{B} is in the checkpoint only"),
        ({**LIKE, A: torch.zeros(5, 8)}, r"is \[3, 8\] float32 there and \[5, 8\] float32 here"),
        ({**LIKE, A: LIKE[A].half()}, r"is \[3, 8\] float32 there and \[3, 8\] float16 here"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(like, said, tmp_path):
    path = save(tmp_path, state(50))
    with pytest.raises(CheckpointError, match=f"another model.*{said}"):
        load(path, like=like, fingerprint="abc")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = save(tmp_path, state(50))
    with pytest.raises(CheckpointError, match="other settings, rows or another base model"):
        load(path, like=LIKE, fingerprint="xyz")


def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("repotune.training.checkpoint.FORMAT", 99)
    path = save(tmp_path, state(50))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 99, and this version of repotune reads"):
        load(path, like=LIKE, fingerprint="abc")


def test_pruning_keeps_what_it_is_told_and_clears_leftovers(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, state(step))
    (tmp_path / ".step-000050.partial").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    prune(tmp_path, keep=(20, 40))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "step-000020", "step-000040"]


def test_saving_a_step_again_replaces_it(tmp_path):
    path = save(tmp_path, state(50))
    (path / "state.json").unlink()
    save(tmp_path, state(50))
    assert_same(load_latest(tmp_path), state(50))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000050"]


def test_a_disk_without_room_is_said_with_numbers_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, state(25))
    usage = type("usage", (), {"free": 400_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        DiskFull, match=r"need 1 MB, and 0 MB is free .*by itself, or later with --resume"
    ):
        save(tmp_path, state(50))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000025"]


class Power(BaseException):
    """The process ends here: nothing after it runs, not even the clean-up."""


class FaultyDisk:
    """Counts what a save asks of the operating system, and fails at call number ``fail_at``."""

    def __init__(self, monkeypatch, fail_at, fault):
        self.calls, self.fail_at, self.fault = 0, fail_at, fault
        self.dead = False
        real_open = Path.open

        def opened(path, *args, **options):
            self.tick()
            return FaultyFile(real_open(path, *args, **options), self)

        monkeypatch.setattr(Path, "open", opened)
        for owner, name in ((Path, "mkdir"), (Path, "replace"), (os, "fsync"), (shutil, "rmtree")):
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, function):
        def call(*args, **options):
            # A clean-up is no call to fail, but a dead process does none.
            if function.__name__ != "rmtree":
                self.tick()
            return None if self.dead else function(*args, **options)

        return call

    def tick(self):
        self.calls += 1
        if self.calls == self.fail_at:
            self.dead = isinstance(self.fault, Power)
            raise self.fault


class FaultyFile:
    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def fileno(self):
        return self.file.fileno()

    def flush(self):
        self.file.flush()

    def write(self, data):
        try:
            self.disk.tick()
        except BaseException:
            self.file.write(data[: len(data) // 2])
            raise
        return self.file.write(data)

    def read(self):
        return self.file.read()


FAULTS = {
    "ENOSPC": OSError(errno.ENOSPC, "No space left on device"),
    "EIO": OSError(errno.EIO, "Input/output error"),
    "power": Power(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_of_a_save_fails_the_checkpoint_before_loads(fault, tmp_path):
    ends = []
    for fail_at in range(1, 100):
        folder = tmp_path / str(fail_at)
        save(folder, state(25))
        with pytest.MonkeyPatch.context() as patch:
            disk = FaultyDisk(patch, fail_at, FAULTS[fault])
            try:
                save(folder, state(50))
                error = None
            except (RepotuneError, Power) as raised:
                error = raised
        found = load_latest(folder)
        assert_same(found, state(found.step))  # whole, whichever it is
        ends.append(found.step)
        if error is None:
            break
        if fault != "power":
            assert isinstance(error, DiskFull if fault == "ENOSPC" else RunError)
            assert str(folder) in str(error)
            assert not list(folder.glob(".*"))
        # and the next attempt succeeds, whatever was left
        save(folder, state(50))
        assert_same(load_latest(folder), state(50))
        assert not list(folder.glob(".*"))
    else:
        pytest.fail("the save never went through")
    assert disk.calls >= 2 + 4 * 3 + 1  # folders; open, write, fsync of each file; the rename
    # only the call after the rename finds the new one
    assert ends[:-2] == [25] * (len(ends) - 2)
    assert ends[-1] == 50
