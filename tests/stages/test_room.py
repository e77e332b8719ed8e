"""The disk budget before the start."""

import shutil

import pytest

from repotune.errors import DiskFull
from repotune.job import settle
from repotune.planning import weight_bytes
from repotune.stages import check_room

from .jobs import new_run, nothing, on_gpu


def settled(tmp_path, source_tree, tiny_model, **changes):
    folder = new_run(tmp_path / "run", source_tree, tiny_model, **changes)
    return folder, settle(folder.state(), nothing)


def with_free(monkeypatch, count):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("usage", (), {"free": count}))


def test_what_does_not_fit_is_said_with_numbers_before_anything_is_done(
    tmp_path, source_tree, tiny_model, monkeypatch
):
    folder, job = settled(tmp_path, source_tree, tiny_model, lora_r=64)
    numbers = 2 * 64 * (64 + 64 + 2 * (64 + 32) + 64 + 64 + 2 * (64 + 128) + 128 + 64)
    need = numbers * (4 * 12 + 4) + 64 * 2**20
    with_free(monkeypatch, need)
    check_room(folder, job, nothing)
    with_free(monkeypatch, need - 1)
    with pytest.raises(
        DiskFull, match=r"will write 0\.1 GB in .*run, and 0\.1 GB are free"
    ) as said:
        check_room(folder, job, nothing)
    assert "go on with --resume, or choose another disk with -o" in str(said.value)


def test_what_lies_there_already_is_not_asked_for_again(
    tmp_path, source_tree, tiny_model, monkeypatch
):
    folder, job = settled(tmp_path, source_tree, tiny_model)
    (folder.checkpoints / "step-000001").mkdir(parents=True)
    (folder.checkpoints / "step-000001" / "lora.safetensors").write_bytes(bytes(2**20))
    with_free(monkeypatch, 66 * 2**20)
    check_room(folder, job, nothing)


def test_4_bit_weights_that_have_no_room_are_not_kept_and_the_run_goes_on(
    tmp_path, source_tree, tiny_model, monkeypatch
):
    from repotune.job import quantised_folder

    folder, job = settled(tmp_path, source_tree, tiny_model, use_4bit=True, lora_r=64)
    job = on_gpu(job, gpu_free_bytes=2**33)
    numbers = 2 * 64 * (64 + 64 + 2 * (64 + 32) + 64 + 64 + 2 * (64 + 128) + 128 + 64)
    run, weights = numbers * (4 * 12 + 4) + 64 * 2**20, weight_bytes(job.setup)
    with_free(monkeypatch, run + weights)
    assert check_room(folder, job, nothing)
    with_free(monkeypatch, run + weights - 1)
    said = []
    assert not check_room(folder, job, said.append)
    (notice,) = said
    assert "4-bit weights are not kept for later runs" in notice.message
    assert "beside what the run writes" in notice.message
    # Layers that an earlier run has kept need no room: 1 of 2 is there.
    cache = quantised_folder(job.base, job.precision)
    cache.mkdir(parents=True)
    (cache / "layer-000.sha256").touch()
    with_free(monkeypatch, run + weights // 2)
    assert check_room(folder, job, nothing)
    # On a disk of its own the cache has what is free there.
    monkeypatch.setattr("repotune.stages.room.drive", lambda path: int(path == cache))
    with_free(monkeypatch, run)
    assert check_room(folder, job, nothing)
