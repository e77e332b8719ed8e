"""The metrics files, written, stopped and resumed."""

import errno
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repotune.errors import DiskFull
from repotune.events import Healed, HeldoutMeasured, Notice, StepDone
from repotune.training import log_metrics


def step(number, loss=0.5):
    return StepDone(
        step=number, steps=9, loss=loss, grad_norm=1.5, learning_rate=2e-4, tokens=64,
        seconds=1.0, tokens_per_second=100.0, seconds_left=3.0,
    )  # fmt: skip


MIB = 2**20


def logging(folder, reached=0, emit=lambda event: None, pause=lambda: False, memory=lambda: MIB):
    return log_metrics(
        folder / "metrics.jsonl", folder / "tensorboard", reached=reached, memory=memory, emit=emit,
        pause=pause,
    )  # fmt: skip


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
    expected = [{**asdict(step(number)), "memory_bytes": MIB} for number in (1, 2, 3)]
    assert lines(tmp_path) == expected
    assert curve(tmp_path, "train/loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert curve(tmp_path, "train/grad_norm") == [(1, 1.5), (2, 1.5), (3, 1.5)]


def test_a_step_has_the_memory_since_the_one_before_and_what_came_before_is_no_steps(tmp_path):
    asked = iter([900 * MIB, 300 * MIB, 400 * MIB])
    with logging(tmp_path, memory=lambda: next(asked)) as log:
        log(Notice(message="nobody asks for its memory"))
        log(step(1))
        log(HeldoutMeasured(step=1, loss=1.5, is_best=True))
        log(step(2))
    found = [line["memory_bytes"] for line in lines(tmp_path) if "loss" in line]
    assert found == [300 * MIB, 400 * MIB]
    assert curve(tmp_path, "train/memory_bytes") == [(1, 300 * MIB), (2, 400 * MIB)]


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


def test_a_skipped_step_has_a_line_and_no_point_of_its_gradient(tmp_path):
    with logging(tmp_path) as log:
        log(replace(step(1), grad_norm=None, loss_scale=65536.0))
        log(replace(step(2), loss_scale=32768.0))
    found = [(line["grad_norm"], line["loss_scale"]) for line in lines(tmp_path)]
    assert found == [(None, 65536.0), (1.5, 32768.0)]
    assert curve(tmp_path, "train/grad_norm") == [(2, 1.5)]
    assert curve(tmp_path, "train/loss_scale") == [(1, 65536.0), (2, 32768.0)]


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


def test_a_full_disk_is_waited_for_and_no_line_is_lost_or_torn(tmp_path, monkeypatch):
    said, left, real = [], [3], Path.open

    class HalfAFile:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            if left[0]:
                self.file.write(data[:10])
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    def opened(path, mode="r", *args, **options):
        file = real(path, mode, *args, **options)
        return HalfAFile(file) if mode == "ab" else file

    def pause():
        left[0] -= 1
        return True

    with logging(tmp_path, emit=lambda event: said.append(event.message), pause=pause) as log:
        log(step(1))
        monkeypatch.setattr(Path, "open", opened)
        left[0] = 3
        log(step(2))
        monkeypatch.undo()
        log(step(3))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert len(said) == 1
    assert said[0].startswith("Paused. The disk is full")


def test_held_out_losses_and_healing_are_lines_and_are_not_there_twice(tmp_path):
    healed = Healed(step=2, remedy="less", rows_per_pass=1, tokens_per_pass=8, passes={})
    for reached in (0, 2):
        with logging(tmp_path, reached) as log:
            if reached == 0:
                log(step(1))
                log(step(2))
                log(healed)
            log(HeldoutMeasured(step=2, loss=1.5, is_best=True))
    assert lines(tmp_path)[2:] == [
        {"step": 2, "healed": "less"}, {"step": 2, "heldout_loss": 1.5},
    ]  # fmt: skip
    assert curve(tmp_path, "heldout/loss")[-1] == (2, 1.5)


def test_curves_that_cannot_be_written_end_only_themselves(tmp_path):
    (tmp_path / "tensorboard").write_text("a file stands in the way")
    said = []
    with logging(tmp_path, emit=said.append) as log:
        log(step(1))
        log(step(2))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    (notice,) = said
    assert "are not written any more" in notice.message
    assert "metrics.jsonl has the same numbers" in notice.message


def test_an_error_of_the_work_stays_what_it_is(tmp_path):
    with pytest.raises(OSError, match="of the work"), logging(tmp_path):
        raise OSError(errno.ENOSPC, "of the work")
