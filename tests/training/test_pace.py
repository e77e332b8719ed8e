"""When a stop gives a step up: between layers, between passes, and not if it is soon done."""

from types import SimpleNamespace

import pytest

from repotune.events import Notice
from repotune.training.pace import STOP_SECONDS, Dropped, Stop

LONG = 2 * STOP_SECONDS


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("repotune.training.pace.time", SimpleNamespace(perf_counter=made))
    return made


def dropped(ask):
    try:
        ask()
    except Dropped:
        return True
    return False


def step_of(stop, clock, *, seconds, passes=1):
    """A whole step, undisturbed."""
    stop.begin_step(passes=passes)
    clock.now += seconds
    stop.end_step()


def test_who_does_not_ask_is_not_stopped(clock):
    stop = Stop(lambda: False, lambda event: None)
    step_of(stop, clock, seconds=10 * LONG)
    stop.begin_step(passes=2)
    assert not dropped(stop.between_layers)
    assert not dropped(stop.between_passes)


def test_in_a_step_that_takes_long_the_first_layer_is_the_last(clock):
    asked, events = [], []
    stop = Stop(lambda: bool(asked), events.append)
    step_of(stop, clock, seconds=LONG)
    stop.begin_step(passes=1)
    assert not dropped(stop.between_layers)
    asked.append(True)
    assert dropped(stop.between_layers)
    assert [type(event) for event in events] == [Notice]  # said once


def test_a_step_that_is_soon_done_is_finished(clock):
    asked = []
    stop = Stop(lambda: bool(asked), lambda event: None)
    step_of(stop, clock, seconds=LONG)
    stop.begin_step(passes=1)
    clock.now += 0.9 * LONG
    asked.append(True)
    assert not dropped(stop.between_layers)
    # It was thought to be: the bound is kept all the same.
    clock.now += 1.1 * STOP_SECONDS
    assert dropped(stop.between_layers)


def test_of_the_first_step_nobody_knows_how_long_it_takes(clock):
    stop = Stop(lambda: True, lambda event: None)
    stop.begin_step(passes=1)
    assert not dropped(stop.between_layers)
    clock.now += 1.1 * STOP_SECONDS
    assert dropped(stop.between_layers)


def test_between_passes_those_that_are_left_count(clock):
    stop = Stop(lambda: True, lambda event: None)
    stop.begin_step(passes=2)
    clock.now += 0.9 * STOP_SECONDS
    assert not dropped(stop.between_passes)
    stop.begin_step(passes=3)
    clock.now += 0.9 * STOP_SECONDS
    assert dropped(stop.between_passes)
