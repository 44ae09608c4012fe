"""Signals set a flag, and their handlers are restored."""

import os
import signal

import pytest

from mezzotint.train.signals import STOPPING, Interrupted, catch_signals


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_sets_the_flag_and_handlers_come_back(number: signal.Signals) -> None:
    outside = signal.signal(number, signal.SIG_DFL)  # tests may run under nohup
    try:
        with catch_signals() as flag:
            assert flag.number == 0
            os.kill(os.getpid(), number)
            assert flag.number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with catch_signals() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert flag.number == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interruption_exits_as_shells_do() -> None:
    assert Interrupted(signal.SIGTERM).exit_code == 143
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert Interrupted(signal.SIGHUP).exit_code == 129
