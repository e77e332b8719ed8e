"""How fast the steps go, and how soon a training can stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from repotune.events import Emit, Notice, StepDone
from repotune.training.step import StepFigures

STOP_SECONDS: Final = 4.0
"""What is left of a step may take so long when somebody wants to stop; the promise is 10 s with
the saving."""
_WINDOW_STEPS: Final = 20
"""Speed is the mean over this many steps: steady enough to read, and it follows the machine."""


class Pace:
    """How fast it goes, and for how long still."""

    def __init__(self, steps: int) -> None:
        self.tokens = 0
        self._steps = steps
        self._window: deque[tuple[float, int]] = deque(maxlen=_WINDOW_STEPS)
        self._last = time.perf_counter()

    def step_done(self, step: int, learning_rate: float, figures: StepFigures) -> StepDone:
        """The event for ``step``, whose time is all that passed since the one before."""
        now = time.perf_counter()
        taken, self._last = now - self._last, now
        self._window.append((taken, figures.tokens))
        self.tokens += figures.tokens
        seconds = sum(seconds for seconds, _ in self._window)
        return StepDone(
            step=step,
            steps=self._steps,
            loss=figures.loss,
            grad_norm=figures.grad_norm,
            learning_rate=learning_rate,
            loss_scale=figures.loss_scale,
            tokens=figures.tokens,
            seconds=taken,
            tokens_per_second=sum(tokens for _, tokens in self._window) / seconds,
            seconds_left=(self._steps - step) * seconds / len(self._window),
        )


class Dropped(Exception):
    """The step is given up for a stop; nothing but its own gradients is lost."""


class Stop:
    """Asks whether to stop, and says once that it heard, since a step can take a minute."""

    def __init__(self, should_stop: Callable[[], bool], emit: Emit) -> None:
        self.asked = False
        self._should_stop, self._emit = should_stop, emit
        self._began, self._passes, self._done = time.perf_counter(), 0, 0
        self._usual_seconds, self._asked_at = 0.0, 0.0

    def begin_step(self, *, passes: int) -> None:
        """A step of so many passes begins."""
        self._began, self._passes, self._done = time.perf_counter(), passes, 0

    def between_layers(self) -> None:
        """Raises Dropped if a stop is asked for and the step would take long, or does."""
        self.ask()
        now = time.perf_counter()
        usual = self._usual_seconds - (now - self._began)
        if self.asked and max(usual, now - self._asked_at) > STOP_SECONDS:
            raise Dropped

    def between_passes(self) -> None:
        """Raises Dropped if a stop is asked for and the rest of the step would take long."""
        self._done += 1
        self.ask()
        elapsed = time.perf_counter() - self._began
        # A GPU is still busy with what the host has passed; the last step says how long that takes.
        by_passes = elapsed / self._done * (self._passes - self._done)
        if self.asked and max(by_passes, self._usual_seconds - elapsed) > STOP_SECONDS:
            raise Dropped

    def end_step(self) -> None:
        """The step is done."""
        self._usual_seconds = time.perf_counter() - self._began
        self.ask()

    def ask(self) -> None:
        """Note what ``should_stop`` says."""
        if not self.asked and self._should_stop():
            self.asked, self._asked_at = True, time.perf_counter()
            self._emit(
                Notice(
                    message="Stopping: what is done is saved first; a second Ctrl-C stops at once, "
                    "and loses nothing that was saved before."
                )
            )
