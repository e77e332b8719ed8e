"""The disk budget before the start."""

import shutil

import pytest

from repotune.errors import DiskFull
from repotune.job import settle
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
    check_room(folder, job)
    with_free(monkeypatch, need - 1)
    with pytest.raises(
        DiskFull, match=r"will write 0\.1 GB in .*run, and 0\.1 GB are free"
    ) as said:
        check_room(folder, job)
    assert "go on with --resume, or choose another disk with -o" in str(said.value)


def test_what_lies_there_already_is_not_asked_for_again(
    tmp_path, source_tree, tiny_model, monkeypatch
):
    folder, job = settled(tmp_path, source_tree, tiny_model)
    (folder.checkpoints / "step-000001").mkdir(parents=True)
    (folder.checkpoints / "step-000001" / "lora.safetensors").write_bytes(bytes(2**20))
    with_free(monkeypatch, 66 * 2**20)
    check_room(folder, job)


def test_4_bit_weights_are_counted_where_they_are_kept_and_only_once(
    tmp_path, source_tree, tiny_model, monkeypatch
):
    folder, job = settled(tmp_path, source_tree, tiny_model, use_4bit=True)
    job = on_gpu(job, gpu_free_bytes=2**33)
    with_free(monkeypatch, 0)
    with pytest.raises(DiskFull, match=r"run and 0\.0 GB in .*nf4"):
        check_room(folder, job)
    from repotune.job import quantised_folder

    quantised_folder(job.base, job.precision).mkdir(parents=True)
    with pytest.raises(DiskFull) as said:
        check_room(folder, job)
    assert "nf4" not in str(said.value)
