"""The metrics files, written, stopped and resumed."""

import errno
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repotune.errors import DiskFull
from repotune.events import Notice, StepDone
from repotune.training import log_metrics


def step(number, loss=0.5):
    return StepDone(
        step=number, steps=9, loss=loss, grad_norm=1.5, learning_rate=2e-4, tokens=64,
        tokens_per_second=100.0, seconds_left=3.0,
    )  # fmt: skip


def logging(folder, reached=0, emit=lambda event: None, pause=lambda: False):
    return log_metrics(
        folder / "metrics.jsonl", folder / "tensorboard", reached=reached, emit=emit, pause=pause
    )


def log_steps(folder, numbers, *, reached=0, loss=0.5):
    with logging(folder, reached) as log:
        log(Notice(message="not a step"))
        for number in numbers:
            log(step(number, loss))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder, tag):
    board = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    board.Reload()
    return [(scalar.step, scalar.value) for scalar in board.Scalars(tag)]


def test_each_step_is_a_line_and_a_point(tmp_path):
    log_steps(tmp_path, [1, 2, 3])
    assert lines(tmp_path) == [asdict(step(number)) for number in (1, 2, 3)]
    assert curve(tmp_path, "train/loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert curve(tmp_path, "train/grad_norm") == [(1, 1.5), (2, 1.5), (3, 1.5)]


def test_a_line_is_on_disk_as_soon_as_its_step_is_done(tmp_path):
    with logging(tmp_path) as log:
        log(step(1))
        assert [line["step"] for line in lines(tmp_path)] == [1]


@pytest.mark.parametrize("left", [b"", b'{"step": 6, "loss', b'{"step": 6}', b"\0\0\0\n", b"[]\n"])
def test_after_a_crash_each_step_stands_there_once(left, tmp_path):
    log_steps(tmp_path, [1, 2, 3, 4, 5])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(left)
    log_steps(tmp_path, [4, 5, 6], reached=3, loss=0.25)
    expected = [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25), (6, 0.25)]
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == expected
    assert [p.name for p in tmp_path.glob("*.jsonl")] == ["metrics.jsonl"]


def test_tensorboard_hides_the_steps_that_are_done_again(tmp_path):
    log_steps(tmp_path, [1, 2, 3, 4, 5])
    log_steps(tmp_path, [4, 5, 6], reached=3, loss=0.25)
    expected = [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25), (6, 0.25)]
    assert curve(tmp_path, "train/loss") == expected


def test_a_run_that_begins_again_begins_with_empty_files(tmp_path):
    log_steps(tmp_path, [1, 2])
    log_steps(tmp_path, [1], loss=0.25)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 0.25)]


def test_a_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch):
    with logging(tmp_path) as log:

        def full(path, *args, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            with pytest.raises(DiskFull, match=r"metrics\.jsonl cannot be written; .*--resume"):
                log(step(1))


def test_an_error_of_the_work_stays_what_it_is(tmp_path):
    with pytest.raises(OSError, match="of the work"), logging(tmp_path):
        raise OSError(errno.ENOSPC, "of the work")
