"""How far a number can be trusted: every metric on resampled test images, and paired comparisons of models.

A bootstrap resample draws as many test images as there are, with replacement. What a resample needs to know of an image
is how often it was drawn, so all resamples of a metric come from one sort of the scores and cumulative sums of those
counts; `bootstrap_map` gives exactly what `average_precision` gives on the repeated rows.

The draws depend on the number of images alone. Two models scored on the same images are therefore resampled together,
and the difference of their resampled metrics is the paired bootstrap of "A is better than B".
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from .metrics import METRICS, average_counts, keep_topk

RESAMPLES = 1000
"""At most so many resamples."""

WORK = 2e9
"""At most so many resamples x images x labels, about 20 seconds of one core: VOC's 4,952 x 20 keeps 1000,
COCO's 40,137 x 80 gets 622, VG500's 10,000 x 500 gets 400."""

CONFIDENCE = 0.95

COLUMNS = (*METRICS, *(f"top3_{name}" for name in METRICS[1:]))
"""The columns of the paper's tables, in order."""


def draw_counts(images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each resample, (R, N) integers that sum to N in each row."""
    generator = np.random.default_rng([seed, images])
    counts = np.empty((resamples, images), np.int32)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, images, images), minlength=images)
    return counts


def resample_count(images: int, labels: int) -> int:
    """How many resamples a test set of this size gets."""
    return int(np.clip(WORK // max(images * labels, 1), 50, RESAMPLES))


def bootstrap_map(scores: np.ndarray, targets: np.ndarray, ignore: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    """mAP (the release's interpolated rule) of each resample, (R,).

    scores, targets, ignore: (N, L), as `metrics.average_precision` takes them. counts: (R, N) times that each image is
    in a resample. A resample without positives of a label gives that label AP 0, as any test set would.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, bool)
    counts = np.ascontiguousarray(np.asarray(counts, np.int32).T)
    total = np.zeros(counts.shape[1])
    for label in range(scores.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        if ignore is not None and len(ignore):
            order = order[np.asarray(ignore)[order, label] == 0]
        positives = np.flatnonzero(targets[order, label])  # ranks
        if not len(positives):
            continue
        for start in range(0, counts.shape[1], 128):  # so that the sums stay in the cache
            block = counts[:, start : start + 128]
            ranked = np.cumsum(block[order], axis=0, dtype=np.int32)[positives]
            times = block[order[positives]].astype(np.float64)
            found = np.cumsum(times, axis=0)
            # Copies of a positive follow each other, and precision rises over them: all of them get the last one's.
            precision = np.maximum.accumulate((found / np.maximum(ranked, 1))[::-1], axis=0)[::-1]
            total[start : start + 128] += (precision * times).sum(axis=0) / np.maximum(found[-1], 1.0)
    return total / scores.shape[1]


def resample_metrics(
    scores: np.ndarray,
    targets: np.ndarray,
    ignore: np.ndarray | None = None,
    *,
    threshold: float = 0.5,
    topk: int = 3,
    never_predicted: Literal["one", "zero"] = "one",
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """Every metric of `COLUMNS` on every resample, (R, 13), in float32: the spread matters, not the last digit.

    counts: (R, N); default `draw_counts` of `resample_count`. The other parameters are `metrics.evaluate_scores`'s.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, bool)
    if counts is None:
        counts = draw_counts(len(scores), resample_count(*scores.shape))
    kept = True if ignore is None or not len(ignore) else np.asarray(ignore) == 0
    columns = [bootstrap_map(scores, targets, ignore, counts)]
    for values in (scores, keep_topk(scores, topk)):
        predicted, positives = (values >= threshold) & kept, targets & kept
        sums = [counts @ marks.astype(np.float64) for marks in (predicted & positives, predicted, positives)]
        columns += average_counts(*sums, never_predicted).values()
    return np.stack(columns, axis=1).astype(np.float32)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation over seeds; None for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def standard_error(values: Sequence[float], resamples: Sequence[np.ndarray]) -> float | None:
    """Standard error of a metric's mean over seeds, from its two sources.

    values: the metric of each seed. resamples: of each seed, the metric on the resamples (R,). The test images' part
    is the deviation of the resampled means, the seeds' part their deviation by the root of their number; the two are
    independent, so their squares add. With one seed the seeds' part is not known, and left out. None without resamples.
    """
    if not len(resamples):
        return None
    return float(np.hypot(float(np.nanstd(np.mean(resamples, axis=0))), _seeds_error(values)))


def _seeds_error(values: Sequence[float]) -> float:
    """Standard error of a mean over seeds; 0 for one seed."""
    return (spread(values) or 0.0) / np.sqrt(len(values))


def compare(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], a_values: Sequence[float], b_values: Sequence[float]
) -> dict[str, float]:
    """By how much A is better than B: {difference, low, high, probability}, in the metric's fractions.

    a, b: of each seed, the metric on the same resamples (R,); a_values, b_values: of each seed, the metric itself.
    Seeds are averaged first. low..high holds 95 % of the resampled differences, shifted so that their mean is the
    difference itself: repeated images raise a resampled AP a little, and that must not pass for evidence. probability is
    the share of them above 0. Where a side has several seeds, the standard error of its mean over seeds is added as
    normal noise; where it has one, what another seed would have given is not known and not in the interval.
    """
    difference = float(np.mean(a_values) - np.mean(b_values))
    resampled = np.mean(a, axis=0, dtype=np.float64) - np.mean(b, axis=0, dtype=np.float64)
    noise = np.hypot(*map(_seeds_error, (a_values, b_values))) * np.random.default_rng(1).standard_normal(
        len(resampled)
    )
    resampled = resampled - np.nanmean(resampled) + difference + noise
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(resampled, [tail, 100 - tail])
    above = float(np.mean(resampled > 0) + np.mean(resampled == 0) / 2)
    return {"difference": difference, "low": float(low), "high": float(high), "probability": above}
