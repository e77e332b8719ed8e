"""Ctrl-C and SIGTERM as a question that the loop asks after each step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give ``should_stop``: whether a signal has come. The second one raises KeyboardInterrupt.

    The handlers from before are put back at the end. Outside the main thread, where Python allows
    no handlers, the answer is always no.
    """
    asked = False

    def should_stop() -> bool:
        return asked

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield should_stop
        return
    previous = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield should_stop
    finally:
        for number, handler in previous.items():
            # None: a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
