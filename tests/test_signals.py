"""Ctrl-C and SIGTERM, once and twice."""

import signal
import threading

import pytest

from repotune.signals import stop_on_signals

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
