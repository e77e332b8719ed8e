"""A log gets lines, a terminal gets a bar with step, loss, tokens per second and time left."""

import io

import pytest

from repotune.cli.progress import amount, clock, show_progress
from repotune.events import (
    CheckpointSaved,
    Event,
    Healed,
    HeldoutMeasured,
    Notice,
    StageDone,
    StageProgress,
    StageStarted,
    StepDone,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(number: int, steps: int) -> StepDone:
    return StepDone(
        step=number,
        steps=steps,
        loss=1.2345,
        grad_norm=0.5,
        learning_rate=1e-4,
        tokens=1000,
        seconds=1.0,
        tokens_per_second=1310.4,
        seconds_left=192.4,
    )


EVENTS: list[Event] = [
    StageStarted(stage="corpus", total=1790, unit="files"),
    StageProgress(stage="corpus", done=900),
    StageDone(stage="corpus", summary="1,700 of 1,790 files kept [more in manifest.parquet]"),
    StageStarted(stage="download", unit="bytes"),
    StageProgress(stage="download", done=31_500_000),
    StageProgress(stage="never started", done=3),
    Notice(message="use_4bit needs a GPU"),
    step(12, 75),
    CheckpointSaved(step=12, path="checkpoints/step-000012", seconds=0.1),
    HeldoutMeasured(step=12, loss=1.25, is_best=True),
    HeldoutMeasured(step=12, loss=1.5, is_best=False),
    Healed(step=13, remedy="2 rows go.", rows_per_pass=2, tokens_per_pass=4096, passes={}),
]
LASTING = [
    "corpus: 1,700 of 1,790 files kept [more in manifest.parquet]",
    "note: use_4bit needs a GPU",
    "checkpoint: step 12, checkpoints/step-000012",
    "held out: loss 1.2500 after step 12, the lowest so far",
    "held out: loss 1.5000 after step 12",
    "healed: memory ran out in step 13, which is done again: 2 rows go.",
]


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_does_not_end_the_work() -> None:
    with show_progress(Closed()) as emit:
        for event in EVENTS:
            emit(event)


def test_a_log_gets_one_line_for_what_matters() -> None:
    stream = io.StringIO()
    with show_progress(stream) as emit:
        for event in EVENTS:
            emit(event)
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if line in LASTING] == LASTING
    assert "step 12/75  loss 1.234  1,310 tokens/s  3:12 left" in lines
    assert "\x1b" not in stream.getvalue()


def test_a_log_of_a_long_training_stays_short() -> None:
    stream = io.StringIO()
    with show_progress(stream) as emit:
        for number in range(1, 10_001):
            emit(step(number, 10_000))
    lines = stream.getvalue().splitlines()
    assert 40 < len(lines) < 60
    assert lines[0].startswith("step 1/")
    assert lines[-1].startswith("step 10000/")


def test_a_terminal_gets_bars_and_the_lasting_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with show_progress(stream) as emit:
        for event in EVENTS:
            emit(event)
    shown = stream.getvalue()
    assert "step 12/75  loss 1.234  1,310 tokens/s  3:12 left" in shown
    assert all(line in shown for line in LASTING)
    assert "\x1b" in shown


def test_a_terminal_is_left_in_order_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), show_progress(stream) as emit:
        emit(step(1, 75))
        raise KeyboardInterrupt
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert stream.getvalue().count(hide) == stream.getvalue().count(show) == 1


def test_times_and_amounts_are_for_people() -> None:
    assert [clock(s) for s in (0, 59.6, 3599, 3661)] == ["0:00", "1:00", "59:59", "1:01:01"]
    assert amount(31_500_000, "bytes") == "31.5 MB"
    assert amount(1790, "files") == "1,790 files"
    assert amount(7, "") == "7"
