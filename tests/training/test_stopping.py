"""Protects the ends of a run before its last epoch: signals, what processes agree on, early stopping. Without a model."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from sgre_lib.training.processes import Processes
from sgre_lib.training.stopping import GO, SAVE, STOP, Stopping, is_exhausted

ALONE = Processes(0, 1, torch.device("cpu"))


class Second(Processes):
    """A process that is not the first of its group, whose others wish for nothing."""

    def highest(self, value):
        return value


def test_it_goes_on_until_a_save_is_due():
    stopping = Stopping(ALONE, save_minutes=1)
    assert stopping.agree() == GO
    stopping.saved_at -= 61
    assert stopping.agree() == SAVE
    stopping.note_save()
    assert stopping.agree() == GO


def test_only_the_first_process_looks_at_the_clock():
    stopping = Stopping(Second(1, 2, torch.device("cpu")), save_minutes=1e-9)
    stopping.saved_at -= 1
    assert stopping.agree() == GO


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_a_second_interrupt_stops_at_once(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopping = Stopping(ALONE, save_minutes=1)
    with stopping.catching_signals():
        os.kill(os.getpid(), number)
        assert stopping.agree() == STOP
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_a_thread_signals_are_left_alone():
    def work():
        with Stopping(ALONE, save_minutes=1).catching_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("values", "ended"),
    [([], False), ([0.5, 0.4, 0.4], False), ([0.5, 0.4, 0.4, 0.4], True), ([0.5, 0.5, 0.5, 0.5], True),
     ([0.1, 0.2, 0.5, 0.4, 0.4], False), ([0.1, 0.2, 0.5, 0.4, 0.4, 0.4], True), ([0.1, 0.2, 0.3, 0.4], False)],
)  # fmt: skip
def test_three_epochs_that_are_not_better_are_enough(values, ended):
    assert is_exhausted([{"ema_mAP": value} for value in values]) is ended
