"""Protects the metrics: the golden arrays, hand-computed cases, ties, empty cases, and the rules that have names."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import golden

from sgre_lib import average_precision, evaluate_scores
from sgre_lib.evaluation.metrics import keep_topk, precision_recall

SIX = ["CP", "CR", "CF1", "OP", "OR", "OF1"]


@pytest.mark.parametrize("name", ["metrics_plain", "metrics_ignore"])
def test_golden(name):
    arrays = golden(name)
    ignore = arrays["ignore"] if len(arrays["ignore"]) else None
    result = evaluate_scores(
        arrays["scores"], arrays["targets"], ignore, float(arrays["threshold"]), int(arrays["topk"])
    )
    np.testing.assert_allclose(result["AP"], arrays["ap12"], rtol=1e-12)
    np.testing.assert_allclose(result["AP_non_interpolated"], arrays["ap07"], rtol=1e-12)
    assert result["mAP"] == pytest.approx(float(arrays["map12"]), rel=1e-12)
    np.testing.assert_allclose([result[key] for key in SIX], arrays["all"], rtol=1e-12)
    np.testing.assert_allclose([result[f"top3_{key}"] for key in SIX], arrays["top3"], rtol=1e-12)


def test_average_precision_by_hand():
    """Ranks 1, 3 and 4 of 5 are positive: precisions 1, 2/3, 3/4; interpolation lifts 2/3 to 3/4."""
    scores, targets = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]]), np.array([[1], [0], [1], [1], [0]])
    assert average_precision(scores, targets)[0] == pytest.approx((1 + 0.75 + 0.75) / 3)
    assert average_precision(scores, targets, rule="non-interpolated")[0] == pytest.approx((1 + 2 / 3 + 0.75) / 3)
    # Recall 0, 0.1, 0.2, 0.3 are reached at rank 1, the other seven points at best with precision 3/4.
    assert average_precision(scores, targets, rule="11-point")[0] == pytest.approx((4 * 1 + 7 * 0.75) / 11)


def test_ignored_entries_are_left_out_of_their_label_only():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((50, 2)), (rng.random((50, 2)) < 0.4).astype(int)
    ignore = np.zeros((50, 2), int)
    ignore[5:25, 0] = 1
    kept = ignore[:, 0] == 0
    for rule in ("interpolated", "non-interpolated", "11-point"):
        ap = average_precision(scores, targets, ignore, rule=rule)
        assert ap[0] == pytest.approx(average_precision(scores[kept, :1], targets[kept, :1], rule=rule)[0], abs=1e-12)
        assert ap[1] == pytest.approx(average_precision(scores[:, 1:], targets[:, 1:], rule=rule)[0], abs=1e-12)


def test_ties_keep_the_order_of_the_input():
    scores = np.zeros((3, 1))
    assert average_precision(scores, np.array([[1], [0], [0]]))[0] == 1
    assert average_precision(scores, np.array([[0], [0], [1]]))[0] == pytest.approx(1 / 3)


def test_order_of_images_does_not_matter_without_ties():
    rng = np.random.default_rng(1)
    scores, targets = rng.random((200, 5)), (rng.random((200, 5)) < 0.2).astype(int)
    order = rng.permutation(200)
    a, b = evaluate_scores(scores, targets), evaluate_scores(scores[order], targets[order])
    np.testing.assert_allclose(a["AP"], b["AP"], rtol=1e-12)
    assert a["OF1"] == b["OF1"]


def test_never_predicted_rule():
    """Label 0 is right once, label 1 is never predicted: the release counts precision 1 for it, others 0."""
    scores, targets = np.array([[0.9, 0.1], [0.2, 0.1]]), np.array([[1, 1], [0, 0]])
    one = evaluate_scores(scores, targets)
    zero = evaluate_scores(scores, targets, never_predicted="zero")
    assert (one["CP"], zero["CP"]) == (pytest.approx(1.0), pytest.approx(0.5))
    assert one["CR"] == pytest.approx(0.5)
    assert one["labels_never_predicted"] == [1]
    assert (one["OP"], one["OR"]) == (1.0, 0.5)


def test_label_without_positives():
    result = evaluate_scores(np.array([[0.9, 0.1]]), np.array([[1, 0]]))
    assert result["labels_without_positives"] == [1]
    assert result["AP"].tolist() == [1.0, 0.0]
    assert result["CR"] == pytest.approx(1.0)


@pytest.mark.filterwarnings("error")
def test_nothing_predicted_is_nan_without_a_warning():
    result = evaluate_scores(np.full((4, 3), 0.1), np.eye(4, 3, dtype=int))
    assert np.isnan(result["OP"])
    assert np.isnan(result["OF1"])
    assert result["OR"] == 0
    assert result["CP"] == pytest.approx(1.0)


def test_topk_still_needs_the_threshold():
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.6, 0.4, 0.3, 0.2]])
    assert keep_topk(scores, 2).tolist() == [[0.9, 0.8, 0, 0], [0.6, 0.4, 0, 0]]
    top = precision_recall(scores, np.ones((2, 4), int), topk=3)
    assert top["OR"] == pytest.approx(4 / 8)
    assert keep_topk(np.ones((1, 4)), 2).tolist() == [[1, 1, 0, 0]]  # equal scores: the lower index


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "targets have shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "scores have shape"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "NaN"),
        (np.zeros((2, 2)), np.full((2, 2), 2), "other than 0 and 1"),
    ],
)
def test_malformed_input(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        evaluate_scores(scores, targets)
