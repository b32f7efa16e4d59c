"""Protects intervals: resampled metrics are those of the repeated images, and intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest

from sgre_lib import evaluate_scores
from sgre_lib.evaluation.intervals import (
    COLUMNS,
    RESAMPLES,
    bootstrap_map,
    compare,
    draw_counts,
    resample_count,
    resample_metrics,
    spread,
    standard_error,
)


@pytest.fixture(params=["plain", "ignore"])
def case(request):
    """Scores with many ties, rare labels (some resamples have none of them), and a mask in the second case."""
    random = np.random.default_rng(0)
    scores, targets = random.random((50, 6)).round(1), random.random((50, 6)) < 0.08
    targets[0] = True
    ignore = (random.random((50, 6)) < 0.2).astype(np.uint8) if request.param == "ignore" else None
    return scores, targets, ignore


def repeated(case, counts):
    rows = np.repeat(np.arange(len(counts)), counts)
    scores, targets, ignore = case
    return scores[rows], targets[rows], None if ignore is None else ignore[rows]


def test_resampling_is_repeating_images(case):
    counts = draw_counts(50, 25)
    assert (counts.sum(axis=1) == 50).all()
    expected = [evaluate_scores(*repeated(case, row), threshold=0.6) for row in counts]
    exact = bootstrap_map(*case, counts)
    np.testing.assert_allclose(exact, [metrics["mAP"] for metrics in expected], atol=1e-12)
    every = resample_metrics(*case, threshold=0.6, counts=counts)
    np.testing.assert_allclose(every, [[metrics[name] for name in COLUMNS] for metrics in expected], atol=1e-6)


def test_the_other_rule_for_labels_never_predicted(case):
    counts = draw_counts(50, 5)
    every = resample_metrics(*case, threshold=0.95, never_predicted="zero", counts=counts)
    for row, count in zip(every, counts, strict=True):
        expected = evaluate_scores(*repeated(case, count), threshold=0.95, never_predicted="zero")
        np.testing.assert_allclose(row, [expected[name] for name in COLUMNS], atol=1e-6)


def test_draws_depend_on_the_number_of_images_alone():
    assert np.array_equal(draw_counts(30, 4), draw_counts(30, 4))
    assert np.array_equal(draw_counts(30, 4), draw_counts(30, 9)[:4])
    assert resample_count(4952, 20) == RESAMPLES
    assert 100 < resample_count(10_000, 500) < RESAMPLES


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Mean scores of two models with a known difference, many times over: 95 % intervals hold it in most."""
    random = np.random.default_rng(1)
    counts = draw_counts(80, 400).astype(float) / 80
    inside = 0
    for _ in range(200):
        hard = random.normal(size=80)  # what makes an image hard is common to both: pairing takes it out
        a, b = 0.5 + hard + 0.3 * random.normal(size=80), hard + 0.3 * random.normal(size=80)
        found = compare([counts @ a], [counts @ b], [a.mean()], [b.mean()])
        assert found["high"] - found["low"] < 0.3  # unpaired it would be 0.6
        inside += found["low"] <= 0.5 <= found["high"]
    assert 0.88 <= inside / 200 <= 0.99


def test_comparison():
    random = np.random.default_rng(2)
    a = random.normal(0.9, 0.01, 1000)
    same = compare([a], [a], [0.9], [0.9])
    assert (same["low"], same["high"], same["probability"]) == (0.0, 0.0, 0.5)
    one = compare([a], [a - 0.02], [0.9], [0.88])
    assert one["low"] == pytest.approx(0.02)
    assert one["probability"] == 1.0
    # Seeds that scatter widen the interval, although the images say the same of each.
    several = compare([a, a], [a - 0.02] * 2, [0.95, 0.85], [0.88, 0.88])
    assert several["difference"] == pytest.approx(0.02)
    assert several["low"] < 0 < several["high"]


def test_a_bias_of_resampling_is_no_evidence():
    """Resampling raises AP; where it raises one model's more, the interval still lies around the difference."""
    random = np.random.default_rng(3)
    noise = random.normal(0, 0.001, 1000)
    found = compare([0.92 + noise], [np.full(1000, 0.9)], [0.9], [0.9])
    assert found["low"] < 0 < found["high"]


def test_standard_errors_add():
    random = np.random.default_rng(4)
    images = random.normal(0.9, 0.004, 100_000)
    assert standard_error([0.9], [images]) == pytest.approx(0.004, rel=0.02)
    assert spread([0.9]) is None
    seeds = [0.90, 0.91, 0.92]
    assert spread(seeds) == pytest.approx(0.01)
    expected = np.hypot(0.004, 0.01 / np.sqrt(3))
    assert standard_error(seeds, [images] * 3) == pytest.approx(expected, rel=0.02)
    assert standard_error([0.9], []) is None
