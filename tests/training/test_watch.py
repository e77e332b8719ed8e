"""What is said of odd losses, of steps that never end, and of the machine."""

import threading

from repotune.events import Notice
from repotune.training import watch as room
from repotune.training.watch import Watch, watching


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def steps(watch, clock, losses, *, first=1, seconds=1.0):
    for step, loss in enumerate(losses, start=first):
        watch.begin()
        clock.now += seconds
        watch.done(step, loss)


def watched(conditions=lambda: ()):
    said, clock = [], Clock()
    return Watch(lambda event: said.append(event.message), conditions, clock), clock, said


def test_a_jump_of_the_loss_is_said_once():
    watch, clock, said = watched()
    steps(watch, clock, [1.0, 1.3, 0.8] * 5 + [2.5, 2.6, 1.0])
    assert len(said) == 1
    assert said[0].startswith("The loss jumped to 2.500 at step 16, from 1.000 usually")


def test_a_loss_that_falls_or_wobbles_is_not_a_jump():
    watch, clock, said = watched()
    steps(watch, clock, [8.0 / step for step in range(1, 40)] + [0.3])
    assert said == []
    fresh, clock, said = watched()
    steps(fresh, clock, [1.0, 5.0, 9.0, 1.0])  # too few to know what is usual
    assert said == []


def test_the_machine_is_looked_at_once_a_minute_and_each_thing_is_said_once():
    states = [("battery",), ("battery", "hot"), (), ("battery",)]
    looks = []

    def conditions():
        looks.append(True)
        return states[min(len(looks), len(states)) - 1]

    watch, clock, said = watched(conditions)
    steps(watch, clock, [1.0] * 30, seconds=10.0)
    assert len(looks) == 5  # at 10 s, then each minute up to 300 s
    assert said == ["battery", "hot", "battery"]


def test_stalls_are_measured_by_the_steps_before():
    watch, clock, _ = watched()
    steps(watch, clock, [1.0] * 9, seconds=30.0)
    assert watch.stall_seconds() is None
    steps(watch, clock, [1.0], seconds=30.0)
    assert watch.stall_seconds() == 300.0
    quick, clock, _ = watched()
    steps(quick, clock, [1.0] * 10, seconds=0.01)
    assert quick.stall_seconds() == room.LEAST_STALL_SECONDS


def test_a_step_that_does_not_end_is_said_from_another_thread(monkeypatch):
    monkeypatch.setattr(room, "LEAST_STALL_SECONDS", 0.01)
    said, heard = [], threading.Event()

    def emit(event):
        assert isinstance(event, Notice)
        said.append((event.message, threading.current_thread()))
        heard.set()

    with watching(emit, lambda: ()) as watch:
        for step in range(1, 12):
            watch.begin()
            watch.done(step, 1.0)
        watch.begin()
        assert heard.wait(60)
    (message, thread) = said[0]
    assert len(said) == 1
    assert "No step was done for" in message
    assert thread is not threading.main_thread()
    assert not thread.is_alive()


def test_time_between_steps_is_no_stall(monkeypatch):
    monkeypatch.setattr(room, "LEAST_STALL_SECONDS", 0.001)
    said, waits = [], threading.Semaphore(0)
    watch = Watch(said.append, lambda: ())
    for step in range(1, 12):
        watch.begin()
        watch.done(step, 1.0)

    class Beat(threading.Event):
        def wait(self, timeout=None):
            waits.release()
            return super().wait(timeout)

    watch.beat, ended = Beat(), threading.Event()
    thread = threading.Thread(target=watch.wait_for_stalls, args=(ended,))
    thread.start()
    for _ in range(5):  # five times the limit went by while nothing was computed
        assert waits.acquire(timeout=60)
    ended.set()
    watch.beat.set()
    thread.join(60)
    assert said == []
