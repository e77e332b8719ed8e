"""What a long run should be told of while it goes on: spikes, stalls, batteries, hot cards.

Everything here only speaks. It costs two comparisons and a list of fifty numbers a step, a look at
the machine once a minute, and a thread that sleeps.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from repotune.events import Emit, Notice

Conditions: TypeAlias = Callable[[], Sequence[str]]
"""What slows the machine down now, a sentence each; none if all is well."""

WINDOW_STEPS: Final = 50
LEAST_STEPS: Final = 10
"""With fewer there is no telling what is usual."""
SPIKE: Final = 2.0
"""Times the median loss of the window. Rows of code differ by a third of it at most."""
STALL: Final = 10.0
"""Times the median seconds of a step."""
LEAST_STALL_SECONDS: Final = 120.0
LOOK_SECONDS: Final = 60.0
"""Between two looks at the machine."""


class Watch:
    """Hears of every step."""

    def __init__(
        self, emit: Emit, conditions: Conditions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._emit, self._conditions, self._clock = emit, conditions, clock
        self._losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._seconds: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._quiet_until = 0
        self._looked, self._told = -LOOK_SECONDS, frozenset[str]()
        self._began, self._in_step = self._clock(), False
        self.beat = threading.Event()

    def begin(self) -> None:
        """A step begins; the time since the last one (saving, measuring) is no part of it."""
        self._began, self._in_step = self._clock(), True
        self.beat.set()

    def done(self, step: int, loss: float) -> None:
        """A step is done."""
        now, self._in_step = self._clock(), False
        self._seconds.append(now - self._began)
        self._spike(step, loss)
        self._losses.append(loss)
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()

    def stall_seconds(self) -> float | None:
        """A step that takes longer than this is stalled; None while nobody can tell."""
        if len(self._seconds) < LEAST_STEPS:
            return None
        return max(LEAST_STALL_SECONDS, STALL * statistics.median(self._seconds))

    def wait_for_stalls(self, ended: threading.Event) -> None:
        """Say once of each step that it is stalled, until ``ended``; for a thread of its own."""
        while not ended.is_set():
            self.beat.clear()
            if self.beat.wait(self.stall_seconds() or LEAST_STALL_SECONDS) or ended.is_set():
                continue
            limit = self.stall_seconds()
            if limit is None or not self._in_step:
                continue
            usual = statistics.median(self._seconds)
            self._emit(
                Notice(
                    message=f"No step was done for {limit:,.0f} seconds, and one takes "
                    f"{usual:,.1f} usually: look whether another program uses the device, or "
                    "whether the computer slept. Stopped with Ctrl-C, the run goes on later from "
                    "its last checkpoint."
                )
            )
            self.beat.wait()  # for the next step, however long it takes

    def _spike(self, step: int, loss: float) -> None:
        if len(self._losses) < LEAST_STEPS or step < self._quiet_until:
            return
        usual = statistics.median(self._losses)
        if loss > SPIKE * usual:
            self._quiet_until = step + WINDOW_STEPS
            self._emit(
                Notice(
                    message=f"The loss jumped to {loss:.3f} at step {step}, from {usual:.3f} "
                    "usually: if it does not come back within some steps, start again with a lower "
                    "learning_rate."
                )
            )

    def _look(self) -> None:
        found = frozenset(self._conditions())
        for sentence in sorted(found - self._told):
            self._emit(Notice(message=sentence))
        self._told = found


@contextmanager
def watching(emit: Emit, conditions: Conditions) -> Iterator[Watch]:
    """A watch whose thread lives as long as the block."""
    watch, ended = Watch(emit, conditions), threading.Event()
    thread = threading.Thread(target=watch.wait_for_stalls, args=(ended,), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        watch.beat.set()
        thread.join()
