"""Protects the cost of a model: parameters and operations are those of its layers, time and memory only where asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sgre_lib import UserError, build_model, count_parameters, make_settings
from sgre_lib.inference.cost import count_flops, measure_cost
from sgre_lib.model.attention import ATTENTION_SIZE

SETTINGS = {"data": "x", "arch": "test_resnet", "image_size": 64, "output_stride": 16, "batch_size": 2}


def test_a_model_without_timed_steps():
    settings = make_settings(**SETTINGS)
    cost = measure_cost(settings, label_count=5, embedding_size=12, steps=0, device="cpu")
    model = build_model(settings, False, label_embeddings=torch.zeros(5, 12))
    assert cost["parameters"] == count_parameters(model)["total"]
    assert cost["parameters"] == cost["backbone_parameters"] + cost["head_parameters"]
    # The formula as written has the A x A layer besides, over 5 labels and 4 x 4 patches.
    assert 1e9 * (cost["gflops_literal"] - cost["gflops"]) == pytest.approx(2 * 5 * 16 * ATTENTION_SIZE**2)
    assert not [name for name in cost if "second" in name or "memory" in name]


def test_a_multiply_add_counts_as_two():
    class OneLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3 * 8 * 8, 10, bias=False)

        def forward(self, images):
            return self.layer(images.flatten(1))

    model = OneLayer().train()
    assert count_flops(model, 8, torch.device("cpu")) == 2 * 3 * 8 * 8 * 10
    assert model.training  # left as found


def test_timed_steps_give_speed_and_memory():
    settings = make_settings(**SETTINGS, model="gap")
    cost = measure_cost(settings, label_count=5, steps=1, device="cpu")
    for name in ("inference", "training"):
        assert cost[f"{name}_images_per_second"] > 0
        assert cost[f"{name}_memory"] >= 0
    assert cost["gflops"] == cost["gflops_literal"]  # no attention


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match="steps -1"):
        measure_cost(make_settings(**SETTINGS), steps=-1)
