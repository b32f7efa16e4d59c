"""Protects calibration and thresholds: bins by hand, curves that are those of the metrics, the best of each label."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_results

from sgre_lib.evaluation.calibration import THRESHOLDS, choose_thresholds, measure_reliability
from sgre_lib.evaluation.metrics import precision_recall


def test_calibration_equals_a_hand_computation():
    scores = np.array([[0.05, 0.95], [0.15, 0.85], [0.1, 1.0]])
    targets = np.array([[0, 1], [1, 0], [0, 1]])
    found = measure_reliability(scores, targets, bins=10)
    assert found.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 1, 2]  # 0.1 belongs to the bin that it begins
    assert found.mean_score[[0, 1, 8, 9]] == pytest.approx([0.05, 0.125, 0.85, 0.975])
    assert found.frequency[[0, 1, 8, 9]] == pytest.approx([0, 0.5, 0, 1])
    assert np.isnan(found.frequency[2])
    assert found.error == pytest.approx((1 * 0.05 + 2 * 0.375 + 1 * 0.85 + 2 * 0.025) / 6)
    masked = measure_reliability(scores, targets, np.array([[0, 0], [0, 1], [0, 0]]), bins=10)
    assert masked.counts.sum() == 5
    assert masked.error == pytest.approx((0.05 + 0.75 + 0.05) / 5)


def test_calibrated_scores_have_no_error_and_scaled_ones_do():
    rng = np.random.default_rng(0)
    scores = rng.random((4000, 10))
    targets = rng.random((4000, 10)) < scores
    assert measure_reliability(scores, targets).error < 0.02
    assert measure_reliability(scores, rng.random((4000, 10)) < scores**2).error == pytest.approx(1 / 6, abs=0.02)


@pytest.mark.parametrize("masked", [False, True])
def test_threshold_curves_are_those_of_the_metrics(masked):
    scores, targets, ignore = random_results(60, 5)
    scores[:, 4], targets[:, 3] = 0.01, 0  # a label that is never predicted, and one that is never there
    ignore = ignore if masked else None
    choice = choose_thresholds(scores, targets, ignore)
    for i in (0, 30, 49, 80, 98):
        expected = precision_recall(scores, targets, ignore, threshold=float(THRESHOLDS[i]))
        assert choice.CF1[i] == pytest.approx(expected["CF1"])
        assert choice.OF1[i] == pytest.approx(np.nan_to_num(expected["OF1"]))
    own = precision_recall(scores - np.nan_to_num(choice.per_label, nan=2), targets, ignore, threshold=0.0)
    assert (choice.CF1_per_label, choice.OF1_per_label) == (pytest.approx(own["CF1"]), pytest.approx(own["OF1"]))
    assert np.isnan(choice.per_label).tolist() == [False, False, False, True, False]


def test_each_label_gets_its_best_threshold():
    scores = np.array([[0.3, 0.9], [0.2, 0.8], [0.1, 0.7], [0.05, 0.6]])
    targets = np.array([[1, 1], [1, 0], [0, 0], [0, 0]])
    choice = choose_thresholds(scores, targets)
    assert choice.per_label == pytest.approx([0.11, 0.81])
    assert choice.CF1_per_label == choice.OF1_per_label == 1
