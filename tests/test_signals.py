"""Ctrl-C and SIGTERM, once and twice."""

import signal
import sys
import threading

import pytest

from repotune.signals import SIGNALS, interrupted_by_signals, stop_on_signals

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_the_first_signal_asks_and_the_second_interrupts(first, second):
    with stop_on_signals() as should_stop:
        assert not should_stop()
        signal.raise_signal(first)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_of_the_training_each_signal_interrupts(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    with interrupted_by_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_a_training_inside_asks_first_and_gives_the_handlers_back():
    with interrupted_by_signals():
        with stop_on_signals() as should_stop:
            signal.raise_signal(signal.SIGTERM)
            assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with stop_on_signals() as should_stop:
            signal.raise_signal(signal.SIGHUP)
            assert not should_stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_from_before_come_back_also_after_an_error():
    before = [signal.getsignal(number) for number in BOTH]
    with pytest.raises(ValueError, match="inside"), stop_on_signals():
        assert [signal.getsignal(number) for number in BOTH] != before
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in BOTH] == before


def test_each_use_starts_anew():
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
    with stop_on_signals() as should_stop:
        assert not should_stop()


def test_outside_the_main_thread_the_answer_is_no():
    answers = []

    def work():
        before = signal.getsignal(signal.SIGINT)
        with stop_on_signals() as should_stop:
            answers.append((should_stop(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [(False, True)]
