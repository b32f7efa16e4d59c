"""Whether scores can be read as probabilities, and what a threshold costs: from scores and targets alone (numpy)."""

from typing import NamedTuple

import numpy as np

from .metrics import average_counts

THRESHOLDS = np.linspace(0.01, 0.99, 99)
"""The thresholds that are tried."""


class Reliability(NamedTuple):
    """Decisions sorted into bins by score. counts, mean_score and frequency have an entry a bin; an empty bin has NaN.

    error is the expected calibration error: |mean_score - frequency|, each bin weighted by its count.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean_score: np.ndarray
    frequency: np.ndarray
    error: float


def measure_reliability(
    scores: np.ndarray, targets: np.ndarray, ignore: np.ndarray | None = None, bins: int = 10
) -> Reliability:
    """How often a label is there, given its score, over all images and labels together.

    scores, targets, ignore: (N, L). The bins are of equal width, closed below; the last one holds 1 too. Most scores of
    most models are close to 0, where bins of equal mass would nearly all lie.
    """
    kept = _kept(scores, ignore)
    flat, truth = np.asarray(scores, np.float64)[kept], np.asarray(targets)[kept].astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, flat, side="right") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(place, flat, bins) / counts
        frequency = np.bincount(place, truth, bins) / counts
    error = float(np.nansum(counts * np.abs(mean_score - frequency)) / max(1, counts.sum()))
    return Reliability(edges, counts, mean_score, frequency, error)


class ThresholdChoice(NamedTuple):
    """F1 at every one of `thresholds`, and with one threshold for each label. All of it in 0..1.

    per_label: (L,) the threshold with the best F1 of its label, NaN where no image has the label. CF1_per_label and
    OF1_per_label: what they give. They are chosen on the images that they are judged on, so they promise too much.
    """

    thresholds: np.ndarray
    CF1: np.ndarray
    OF1: np.ndarray
    per_label: np.ndarray
    CF1_per_label: float
    OF1_per_label: float


def choose_thresholds(scores: np.ndarray, targets: np.ndarray, ignore: np.ndarray | None = None) -> ThresholdChoice:
    """CF1 and OF1 over the threshold, as `metrics.precision_recall` has them, and the best threshold of each label.

    scores, targets, ignore: (N, L). Of thresholds that do equally well the lowest is taken.
    """
    kept = _kept(scores, ignore)
    truth = np.asarray(targets).astype(bool) & kept
    # The thresholds that a score reaches are the first so many; from there on everything is counting.
    reached = np.searchsorted(THRESHOLDS, np.asarray(scores, np.float64), side="right")
    counts = np.stack([_count_reached(reached, truth), _count_reached(reached, kept)])  # (2, thresholds, L)
    positives = truth.sum(axis=0).astype(np.float64)
    best = (2 * counts[0] / np.maximum(counts[1] + positives, 1.0)).argmax(axis=0)
    # A label without an image is best never predicted.
    own = np.where(positives > 0, counts[:, best, np.arange(len(positives))], 0.0)
    per_label = np.where(positives > 0, THRESHOLDS[best], np.nan)
    return ThresholdChoice(
        THRESHOLDS, *_f1(*counts, positives), per_label, *(float(value) for value in _f1(*own, positives))
    )


def _f1(true_positives: np.ndarray, predicted: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CF1 and OF1 of counts (..., L); OF1 is 0 where nothing is predicted."""
    by_label = average_counts(true_positives, predicted, positives)["CF1"]
    return by_label, 2 * true_positives.sum(axis=-1) / np.maximum(predicted.sum(axis=-1) + positives.sum(), 1.0)


def _kept(scores: np.ndarray, ignore: np.ndarray | None) -> np.ndarray:
    return np.ones(np.shape(scores), bool) if ignore is None else np.asarray(ignore) == 0


def _count_reached(reached: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(thresholds, L): entries of each label that are counted and reach each threshold."""
    levels, labels = len(THRESHOLDS) + 1, reached.shape[1]
    keys = (reached * labels + np.arange(labels))[counted]
    exactly = np.bincount(keys, minlength=levels * labels).reshape(levels, labels)
    return exactly[::-1].cumsum(axis=0)[::-1][1:].astype(np.float64)
