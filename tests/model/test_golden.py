"""Protects the method: head, losses, position map and moving average equal the released implementation's arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import golden
from torch import nn

from sgre_lib import AsymmetricLoss, MovingAverage, SGREHead, convert_released
from sgre_lib.model.attention import InterModalAttention, bilinear_scores
from sgre_lib.model.head import position_map_sine

HEADS = ["head_pos", "head_nopos_tau_prenorm"]


def make_head(arrays) -> tuple[SGREHead, dict[str, str]]:
    """The head with the golden state, and our parameter names by released name."""
    head = SGREHead(
        arrays["features"].shape[2],
        torch.tensor(arrays["label_embeddings"]),
        tuple(arrays["grid"]),
        pos=bool(arrays["pos"]),
        tau=float(arrays["tau"]),
        num_heads=int(arrays["num_heads"]),
        num_layers=int(arrays["num_layers"]),
        normalize_before=bool(arrays["normalize_before"]),
    )
    state = {key.removeprefix("state/"): torch.tensor(arrays[key]) for key in arrays.files if key.startswith("state/")}
    names = {next(iter(convert_released({key: value}))).removeprefix("head."): key for key, value in state.items()}
    converted = convert_released({f"module.{key}": value for key, value in state.items()})
    head.load_state_dict({key.removeprefix("head."): value for key, value in converted.items()}, strict=True)
    return head, names


@pytest.mark.parametrize("name", HEADS)
def test_head_in_evaluation_mode(name):
    arrays = golden(name)
    head, _ = make_head(arrays)
    with torch.no_grad():
        output = head.eval()(torch.tensor(arrays["features"]))
    np.testing.assert_allclose(output.logits, arrays["eval_logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.alignment, arrays["eval_alpha"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(output.alignment.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_head_training_step(name):
    """Logits, loss, the gradient of features and of every parameter, and batch-norm statistics after one step."""
    arrays = golden(name)
    head, names = make_head(arrays)
    head.train()
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    features = torch.tensor(arrays["features"], requires_grad=True)
    targets, loss_of = torch.tensor(arrays["targets"]), AsymmetricLoss(gamma_neg=2)
    output = head(features)
    loss = loss_of(output.logits, targets) + float(arrays["lamda"]) * loss_of(output.object_logits, targets)
    loss.backward()
    np.testing.assert_allclose(output.logits.detach(), arrays["train_logits"], rtol=1e-5, atol=1e-6)
    assert loss.item() == pytest.approx(float(arrays["train_loss"]), rel=1e-6)
    scale = np.abs(arrays["grad_features"]).max()
    np.testing.assert_allclose(features.grad, arrays["grad_features"], rtol=1e-4, atol=1e-5 * scale)
    for ours, parameter in head.named_parameters():
        expected = float(arrays[f"gradnorm/{names[ours]}"])
        # The two biases of the alignment cancel in its softmax: the release's gradient of them is rounding noise.
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-4, abs=1e-5), ours
    for ours, buffer in head.named_buffers():
        if "running" in ours:
            np.testing.assert_allclose(buffer, arrays[f"after/{names[ours]}"], rtol=1e-5, atol=1e-6, err_msg=ours)


def test_folded_attention_equals_the_literal_formula():
    """Values and gradients of every parameter, with several images, labels and chunks."""
    torch.manual_seed(0)
    attention = InterModalAttention(24, 12, attention_size=64)
    features, labels = torch.randn(3, 10, 24, requires_grad=True), torch.randn(7, 12, requires_grad=True)
    weights = torch.randn(3, 7, 10)

    def literal(features, labels):
        z = torch.tanh(attention.project_patches(features)[:, None] * attention.project_labels(labels)[None, :, None])
        return torch.softmax(attention.target(attention.hidden(z)).squeeze(-1) / 0.8, dim=-1)

    wanted = {"features": features, "labels": labels, **dict(attention.named_parameters())}
    expected = torch.autograd.grad((literal(features, labels) * weights).sum(), list(wanted.values()))
    ours = attention(features, labels, 0.8)
    torch.testing.assert_close(ours, literal(features, labels))
    found = torch.autograd.grad((ours * weights).sum(), list(wanted.values()))
    for name, a, b in zip(wanted, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_folded_attention_gradient_check(monkeypatch):
    """Against finite differences in double precision, in chunks of one label."""
    monkeypatch.setattr("sgre_lib.model.attention.CHUNK_BYTES", {"cpu": 1, "cuda": 1})
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (4, 5), (5,))]
    assert torch.autograd.gradcheck(bilinear_scores, inputs)


@pytest.mark.parametrize("name", ["asl_0", "asl_1", "asl_2"])
def test_asymmetric_loss(name):
    arrays = golden(name)
    logits = torch.tensor(arrays["logits"], requires_grad=True)
    options = {key: float(arrays[key]) for key in ("gamma_neg", "gamma_pos", "clip", "eps")}
    loss = AsymmetricLoss(**options)(logits, torch.tensor(arrays["targets"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-6)
    np.testing.assert_allclose(logits.grad, arrays["grad"], rtol=1e-5, atol=1e-6)


def test_position_map():
    arrays = golden("position_sine")
    half, grid = int(arrays["num_pos_feats"]), (int(arrays["height"]), int(arrays["width"]))
    np.testing.assert_allclose(position_map_sine(2 * half, grid), arrays["pe"], rtol=1e-6, atol=1e-6)


def test_moving_average():
    """Four updates; before the k-th every parameter grows by 0.1 k and the running mean by 0.5."""
    arrays = golden("ema")
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    keys = [key.removeprefix("0/") for key in arrays.files if key.startswith("0/")]

    def growth(key: str, step: int) -> float:
        return 0.1 * step if key.endswith(("weight", "bias")) else 0.5 * key.endswith("running_mean")

    state = {key: torch.tensor(arrays[f"0/{key}"]) for key in keys}
    for key, value in state.items():
        if value.is_floating_point():
            value -= (1 - 0.9) * growth(key, 1)  # the first stored average is one update away from the initial model
    model.load_state_dict(state)
    average = MovingAverage(model, 0.9)
    for step in range(4):
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value += growth(key, step + 1)
        average.update(model)
        for key, value in average.model.state_dict().items():
            np.testing.assert_allclose(value, arrays[f"{step}/{key}"], rtol=1e-6, atol=1e-6, err_msg=f"{step} {key}")


def test_moving_average_follows_replaced_buffers():
    """The average is of the live tensors, also after the model was moved through state dicts."""
    model = nn.BatchNorm1d(2)
    average = MovingAverage(model, 0.5)
    for _ in range(3):
        model.load_state_dict({key: torch.ones_like(value) for key, value in model.state_dict().items()})
        average.update(model)
    assert average.model.running_mean.tolist() == pytest.approx([0.875, 0.875])
    assert average.model.num_batches_tracked.item() == 0  # 0.5 truncates to 0
    assert not average.model.training
