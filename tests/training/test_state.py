"""Protects what last.pth holds: all of a run's state, taken up to the bit, and a whole file whatever the disk does."""

from __future__ import annotations

import pytest
import torch

from sgre_lib import UserError, make_settings
from sgre_lib.base.errors import Stopped
from sgre_lib.model.checkpoints import read_checkpoint, write_checkpoint
from sgre_lib.model.experiment import BEST, LAST, PREVIOUS
from sgre_lib.training.ema import MovingAverage
from sgre_lib.training.processes import Processes
from sgre_lib.training.recipe import Schedule, make_optimizer
from sgre_lib.training.state import Checkpoints, RunState

ALONE = Processes(0, 1, torch.device("cpu"))


def make_state(seed: int = 0, width: int = 3, **changes) -> RunState:
    """The state of a run that has taken no step, of a model of one layer."""
    settings = make_settings(needs_data=False, epochs=2, **changes)
    torch.manual_seed(seed)
    model = torch.nn.Linear(width, 2)
    optimizer = make_optimizer(model, settings)
    average = MovingAverage(model, 0.9)
    return RunState(model, average, optimizer, Schedule(optimizer, settings, 5), torch.amp.GradScaler(enabled=False))


def take_step(state: RunState) -> None:
    """A step on random input, so that it depends on the random generator too."""
    state.optimizer.zero_grad()
    state.model(torch.randn(4, state.model.in_features)).square().sum().backward()
    state.optimizer.step()
    state.schedule.end_step()
    state.average.update(state.model)
    state.batch += 1


@pytest.mark.parametrize("optimizer", ["AdamW", "Adam", "SGD"])
def test_a_restored_state_goes_on_to_the_bit(tmp_path, optimizer):
    checkpoints, whole = Checkpoints(tmp_path, ALONE), make_state(optimizer=optimizer)
    take_step(whole)
    whole.history.append({"ema_mAP": 0.5})
    checkpoints.save(whole)
    take_step(whole)
    other = make_state(seed=1, optimizer=optimizer)
    checkpoints.restore(other)
    assert (other.epoch, other.batch, other.history) == (1, 1, [{"ema_mAP": 0.5}])
    take_step(other)
    for one, same in ((whole.model, other.model), (whole.average.model, other.average.model)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


def test_another_number_of_processes_shares_the_loss_out():
    state, content = make_state(), make_state().collect(ALONE)
    state.restore(content | {"generators": [1, 2], "loss_sum": [3.0, 5.0]}, ALONE)
    assert state.loss_sum == 8.0


def test_a_state_of_another_model_is_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path, ALONE)
    checkpoints.save(make_state())
    with pytest.raises(UserError, match=r"last\.pth does not fit this run"):
        checkpoints.restore(make_state(width=4))
    write_checkpoint(tmp_path / LAST, {"format": 1})
    with pytest.raises(UserError, match=r"last\.pth does not fit this run"):
        checkpoints.restore(make_state())


def test_the_state_before_the_last_is_kept_and_read_where_that_is_damaged(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, ALONE), make_state()
    checkpoints.save(state)
    assert not (tmp_path / PREVIOUS).exists()
    state.begin_epoch(2)
    checkpoints.save(state)
    assert [read_checkpoint(tmp_path / name)["epoch"] for name in (LAST, PREVIOUS)] == [2, 1]
    (tmp_path / LAST).write_bytes(b"no checkpoint")
    checkpoints.restore(state)
    assert state.epoch == 1


def test_the_best_model_is_the_moving_average(tmp_path):
    state = make_state()
    take_step(state)
    Checkpoints(tmp_path, ALONE).save_best(state.average)
    stored = read_checkpoint(tmp_path / BEST)
    assert all(torch.equal(stored[name], value) for name, value in state.average.model.state_dict().items())


def test_a_folder_that_cannot_be_written_stops_and_says_what_is_safe(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(Stopped, match=r"cannot be written .*last good state is kept.*--resume --exp-dir"):
        Checkpoints(tmp_path, ALONE).save(make_state())
