"""Protects that what makes SGRE fast changes nothing: values and every gradient against the literal formulas."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from literal import LiteralHead, update_average

from sgre_lib import AsymmetricLoss, SGREHead
from sgre_lib.model.head import PatchClassifier
from sgre_lib.training.ema import MovingAverage


def gradients(head, features, targets):
    loss_of = AsymmetricLoss()
    x = features.clone().requires_grad_()
    output = head(x)
    (loss_of(output.logits, targets) + 0.4 * loss_of(output.object_logits, targets)).backward()
    return output, x.grad


def without_dropout(head):
    for module in head.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return head


@pytest.mark.parametrize(("labels", "side"), [(5, 4), (40, 3)], ids=["fewer labels than patches", "more"])
@pytest.mark.parametrize("normalize_before", [False, True])
def test_every_gradient_is_that_of_the_literal_formula(labels, side, normalize_before):
    """In double precision, where an error of the formula would stand out from rounding."""
    torch.manual_seed(0)
    ours = SGREHead(32, torch.randn(labels, 24), (side, side), normalize_before=normalize_before, tau=0.7)
    ours = without_dropout(ours).double().train()
    literal = LiteralHead(copy.deepcopy(ours)).double().train()
    features, targets = torch.randn(3, side * side, 32).double(), (torch.rand(3, labels) < 0.3).double()
    output, d_features = gradients(ours, features, targets)
    expected, d_expected = gradients(literal, features, targets)
    for mine, theirs in zip(output, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(d_features, d_expected, rtol=1e-8, atol=1e-9)
    theirs = dict(literal.head.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted = theirs[name].grad
        if name.startswith("intra_modal") and ".linear." in name:
            wanted = literal.blocks[name.split(".")[1]][0].weight.grad[..., 0]
        torch.testing.assert_close(
            parameter.grad, wanted, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: name + text
        )


def test_the_gradient_goes_where_the_maximum_is():
    """Ties share it evenly, as PyTorch's amax does; what was dropped or negative gets none."""
    torch.manual_seed(0)
    classifier = PatchClassifier(8, 3).train()
    x = torch.randn(2, 6, 8)
    x[:, 3] = x[:, 1]  # two equal patches
    state = torch.get_rng_state()
    ours, dense = x.clone().requires_grad_(), x.clone().requires_grad_()
    scores = classifier(ours)
    torch.set_rng_state(state)
    expected = classifier.output(classifier.activate(dense)).amax(dim=1)
    torch.testing.assert_close(scores, expected)
    weights = torch.randn(2, 3)
    mine = torch.autograd.grad((scores * weights).sum(), [ours, *classifier.parameters()])
    theirs = torch.autograd.grad((expected * weights).sum(), [dense, *classifier.parameters()])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    torch.nn.init.zeros_(classifier.hidden.weight)  # every patch ties
    torch.nn.init.zeros_(classifier.hidden.bias)
    flat = x.clone().requires_grad_()
    bias = torch.autograd.grad(classifier(flat).sum(), classifier.output.bias)[0]
    torch.testing.assert_close(bias, torch.full((3,), 2.0))


def test_scores_that_are_not_numbers_stay_so():
    classifier = PatchClassifier(4, 2)
    assert torch.isnan(classifier(torch.full((1, 3, 4), float("nan")))).all()


def test_moving_average_is_that_of_the_loop():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    average = MovingAverage(model, 0.9)
    literal = copy.deepcopy(average.model)
    for _ in range(3):
        model(torch.randn(2, 3, 8, 8))
        average.update(model)
        update_average(literal, model, 0.9)
    for ours, theirs in zip(average.model.state_dict().values(), literal.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
