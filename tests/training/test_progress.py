"""Protects what a run shows: the bar's text, the time that is left, the log."""

from __future__ import annotations

import pytest

from sgre_lib.training.progress import LOG, describe_time_left, epoch_bar, log_to, move_bar


def test_time_left_goes_by_the_slowest_pace():
    assert describe_time_left(60, 1.0) == "1 min"
    assert describe_time_left(60, 1.0, 2.0) == "2 min"
    assert describe_time_left(3600, 1.1) == "1 h 06 min"


def test_the_bar_of_an_epoch_that_goes_on():
    bar = epoch_bar(2, 6, 8, 44, shown=True)
    assert (bar.n, bar.total, bar.desc) == (8, 44, "epoch 2/6")
    move_bar(bar, 24, 12.0, "3 min")
    assert (bar.n, bar.postfix) == (24, "loss 0.50, run 3 min left")
    move_bar(bar, 48, 44.0, "0 min")  # the last batch is a partial one
    assert (bar.n, bar.postfix) == (44, "loss 1.00, run 0 min left")
    bar.close()
    assert epoch_bar(1, 1, 0, 4, shown=False).disable


def test_the_log_says_what_ended_the_run(tmp_path):
    def run():
        LOG.info("began %d", 1)
        raise ZeroDivisionError("nothing")

    before = list(LOG.handlers)
    with pytest.raises(ZeroDivisionError), log_to(tmp_path / "train.log"):
        run()
    text = (tmp_path / "train.log").read_text()
    assert "INFO began 1" in text
    assert "ERROR ended by ZeroDivisionError: nothing" in text
    assert LOG.handlers == before
