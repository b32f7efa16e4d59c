"""Protects the choice of failures to show, and what a trained model's patches attend to on average."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_results

from sgre_lib import UserError, load_experiment
from sgre_lib.heatmaps.maps import average_correlation
from sgre_lib.heatmaps.photo_choice import choose_failures
from sgre_lib.model.experiment import open_dataset


def test_failures_are_chosen_by_rule():
    scores = np.array([[0.9, 0.8, 0.1], [0.95, 0.2, 0.3], [0.7, 0.6, 0.05], [0.1, 0.1, 0.1], [0.99, 0.99, 0.99]])
    targets = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]])
    assert choose_failures(scores, targets, 9) == [
        (1, "false alarm", 0),  # the most certain of all
        (0, "false alarm", 0),
        (2, "missed", 2),  # taken second, so image 2 has no false alarm, and images 0 and 1 no miss
    ]
    assert choose_failures(scores, targets, 1) == [(1, "false alarm", 0)]
    sparing = choose_failures(scores, targets, 9, per_label=1)
    assert sparing == [(1, "false alarm", 0), (0, "false alarm", 1), (2, "missed", 2)]
    mask = np.zeros_like(targets)
    mask[1, 0] = 1
    assert choose_failures(scores, targets, 1, ignore=mask) == [(0, "false alarm", 0)]
    assert choose_failures(targets.astype(float), targets, 9) == []


def test_no_label_and_no_image_fills_the_gallery():
    scores, targets, ignore = random_results(300, 8)
    scores[:, 0] = 1 - targets[:, 0]  # a label that is always wrong
    chosen = choose_failures(scores, targets, 12, ignore=ignore)
    assert len(chosen) == 12
    assert len({image for image, _, _ in chosen}) == 12
    assert max(sum(label == one for *_, label in chosen) for one in range(8)) == 2
    for image, why, label in chosen:
        assert not ignore[image, label]
        assert (scores[image, label] >= 0.5, targets[image, label]) == (
            (True, 0) if why == "false alarm" else (False, 1)
        )


def test_average_correlation_of_a_trained_model(experiment):
    model, settings, _ = load_experiment(experiment)
    split = open_dataset(experiment).split("test")
    split.targets[:, 2] = 0
    learned = average_correlation(model, settings, split, torch.device("cpu"), batch_size=7, num_workers=0)
    there = split.targets.any(axis=0)
    assert np.isnan(learned[~there]).all()
    assert learned[there].sum(axis=1) == pytest.approx(1, abs=1e-5)
    # A row is the mean over the images of its label, whatever the batches.
    whole = average_correlation(model, settings, split, torch.device("cpu"), batch_size=64, num_workers=0)
    assert learned == pytest.approx(whole, abs=1e-6, nan_ok=True)
    label = int(split.targets.sum(axis=0).argmin() if there.all() else np.flatnonzero(there)[0])
    one = [i for i in range(len(split)) if split.targets[i, label]]
    few = type(split)([split.names[i] for i in one], [split.paths[i] for i in one], split.targets[one])
    alone = average_correlation(model, settings, few, torch.device("cpu"), num_workers=0)
    assert alone[label] == pytest.approx(learned[label], abs=1e-6)
    with pytest.raises(UserError, match="both branches"):
        average_correlation(model, replace(settings, branches="object"), split, torch.device("cpu"))
