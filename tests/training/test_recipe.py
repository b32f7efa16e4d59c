"""Protects the recipe: what each optimiser and schedule of the release does, step by step, and that it can be stored."""

from __future__ import annotations

import pytest
import torch

from sgre_lib import UserError, build_model, make_settings
from sgre_lib.training.recipe import Schedule, make_optimizer


def settings(**changes):
    return make_settings(needs_data=False, **changes)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 9, 10, 11, 50])
@pytest.mark.parametrize("pct_start", [0.2, 0.5])
def test_one_cycle_of_any_length(steps, pct_start):
    chosen = settings(lr=1.0, epochs=1, pct_start=pct_start)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), chosen)
    schedule = Schedule(optimizer, chosen, steps)
    rates, betas = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        schedule.end_step()
    assert rates[0] == pytest.approx(1 / 25)
    assert betas[0] == pytest.approx(0.95)
    if steps >= 10:
        assert max(rates) == pytest.approx(1.0, abs=0.03)  # the peak may lie between two steps
        assert rates.index(max(rates)) == pytest.approx(pct_start * steps, abs=1)
        assert rates[-1] == pytest.approx(1 / 25e4)


def rates_of_epochs(scores, **changes) -> list[float]:
    """The learning rate of each epoch of two steps, given the EMA mAP that each ends with."""
    chosen = settings(lr=1.0, epochs=len(scores), **changes)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), chosen)
    schedule, rates = Schedule(optimizer, chosen, 2), []
    for score in scores:
        rates.append(optimizer.param_groups[0]["lr"])
        for _ in range(2):
            optimizer.step()
            schedule.end_step()
        schedule.end_epoch(score)
    return rates


def test_schedules_that_move_with_the_epochs():
    assert rates_of_epochs([0.1] * 5, lr_scheduler="StepLR", step_size=2) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    # Two epochs in a row that are not better, of which one is patience, and the third has a tenth.
    scores = [0.1, 0.3, 0.2, 0.3, 0.4, 0.4]
    assert rates_of_epochs(scores, lr_scheduler="ReduceLROnPlateau") == pytest.approx([1, 1, 1, 1, 0.1, 0.1])
    with pytest.raises(UserError, match="--lr-scheduler StepLR needs --step-size"):
        settings(lr_scheduler="StepLR")


@pytest.mark.parametrize("scheduler", ["OneCycleLR", "StepLR", "ReduceLROnPlateau"])
def test_a_schedule_goes_on_from_its_stored_state(scheduler, tmp_path):
    chosen = settings(epochs=6, lr_scheduler=scheduler, step_size=2)
    scores, rates = [0.3, 0.2, 0.2, 0.2, 0.2, 0.2], {}
    for cut in (6, 3):
        optimizer = make_optimizer(torch.nn.Linear(2, 2), chosen)
        schedule, rates[cut] = Schedule(optimizer, chosen, 2), []
        for epoch, score in enumerate(scores):
            if epoch == cut:
                torch.save((optimizer.state_dict(), schedule.inner.state_dict()), tmp_path / "state.pth")
                stored = torch.load(tmp_path / "state.pth", weights_only=True)
                optimizer = make_optimizer(torch.nn.Linear(2, 2), chosen)
                schedule = Schedule(optimizer, chosen, 2)
                optimizer.load_state_dict(stored[0])
                schedule.inner.load_state_dict(stored[1])
            for _ in range(2):
                optimizer.step()
                schedule.end_step()
                rates[cut].append(optimizer.param_groups[0]["lr"])
            schedule.end_epoch(score)
    assert rates[3] == rates[6]


def test_true_weight_decay_exempts_vectors():
    model = build_model({"arch": "test_resnet", "pretrained": False, "image_size": 64}, label_count=16)
    plain = make_optimizer(model, settings())
    assert [group["weight_decay"] for group in plain.param_groups] == [1e-4]
    exempt = make_optimizer(model, settings(true_weight_decay=True))
    assert [group["weight_decay"] for group in exempt.param_groups] == [1e-4, 0.0]
    assert all(p.dim() <= 1 for p in exempt.param_groups[1]["params"])


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD"])
def test_optimizers_take_the_released_step(name):
    """One step from weight 2 with gradient 1, learning rate 0.1, weight decay 0.5."""
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    optimizer = make_optimizer(layer, settings(optimizer=name, lr=0.1, weight_decay=0.5))
    with torch.no_grad():
        layer.weight.fill_(2.0)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    # AdamW decays the weight itself; Adam adds the decay to the gradient, and its first step is of length lr.
    expected = {"AdamW": 2 * (1 - 0.1 * 0.5) - 0.1, "Adam": 2 - 0.1, "SGD": 2 - 0.1 * (1 + 0.5 * 2)}
    assert layer.weight.item() == pytest.approx(expected[name])
    assert optimizer.param_groups[0].get("momentum", 0) == 0
