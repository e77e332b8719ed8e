"""Ctrl-C, SIGTERM and a closed terminal: as a question asked between steps, or as an end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

if sys.platform == "win32":
    # Ctrl-Break, which is also what a console gets that is closed.
    SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
else:
    SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give ``should_stop``: whether a signal has come. The second one raises KeyboardInterrupt.

    The handlers from before are put back at the end, and what was ignored (``nohup``) stays so.
    Outside the main thread, where Python allows no handlers, the answer is always no.
    """
    asked = False

    def should_stop() -> bool:
        return asked

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    with _handled_by(on_signal):
        yield should_stop


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let each of the signals raise KeyboardInterrupt, as Ctrl-C does without asking."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled_by(on_signal):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, one in previous.items():
            # None: a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if one is None else one)
