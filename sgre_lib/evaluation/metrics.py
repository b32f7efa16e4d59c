"""Metrics of multi-label classification, from scores and targets alone (numpy, float64).

The rules are the released code's, which differ from other groups' in two places; both have a name here:
`rule` for average precision and `never_predicted` for the per-label averages.
"""

from typing import Literal

import numpy as np

METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")
"""The metrics of the paper, in the order of its tables."""

FLOOR = np.finfo(np.float64).eps
"""The release floors counts at this value in the per-label averages: 0/0 becomes 1, 0/n becomes 0 to 16 digits."""

AP_RULES = {
    "interpolated": "area under precision made non-increasing from the right (the release's rule, and VOC2012's)",
    "non-interpolated": "mean precision at the rank of each positive (ML-GCN, CSRA, ASL, ML-Decoder)",
    "11-point": "mean of the best precision at recall >= 0, 0.1, ..., 1 (VOC2007's)",
}


def average_precision(
    scores: np.ndarray, targets: np.ndarray, ignore: np.ndarray | None = None, *, rule: str = "interpolated"
) -> np.ndarray:
    """Average precision of each label, (L,), in 0..1.

    scores: (N, L) numbers. targets: (N, L), 1 where the label is present. ignore: (N, L), 1 where an image is left out
    of that label's ranking. rule: a key of `AP_RULES`. A label without positives has AP 0.
    Tied scores keep the order of the input, whatever the machine; only ties depend on that order.
    """
    if rule not in AP_RULES:
        raise ValueError(f"unknown rule {rule!r}: choose from {', '.join(AP_RULES)}")
    return _average_precisions(*_as_arrays(scores, targets, ignore))[rule]


def _average_precisions(scores: np.ndarray, targets: np.ndarray, counted: np.ndarray | None) -> dict[str, np.ndarray]:
    """Average precision of each label by every rule: each needs the precision at the positives' ranks, and no more."""
    result = {rule: np.zeros(scores.shape[1]) for rule in AP_RULES}
    # One row a label: what follows then runs over contiguous memory.
    for label, (falling, present) in enumerate(zip(np.ascontiguousarray(-scores.T), targets.T, strict=True)):
        if counted is not None:
            falling, present = falling[counted[:, label]], present[counted[:, label]]
        # From 1, of the positives alone.
        ranks = np.flatnonzero(present[_sort_stably(falling)]) + 1
        count = len(ranks)
        if not count:
            continue
        precision = np.arange(1, count + 1) / ranks
        # The best precision from a rank on is that of a positive: between two of them precision falls.
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        # 1e-9: recall 0.3 of 10 positives is 3 of them, whatever 0.3 * 10 rounds to.
        needed = np.ceil(np.linspace(0, 1, 11) * count - 1e-9).astype(int)
        result["non-interpolated"][label] = precision.mean()
        result["interpolated"][label] = envelope.mean()
        result["11-point"][label] = envelope[np.maximum(needed, 1) - 1].mean()
    return result


def _sort_stably(values: np.ndarray) -> np.ndarray:
    """The order that sorts (n,) values, ties as in the input: several times faster than numpy's stable sort."""
    order = np.argsort(values)
    in_order = values[order]
    same = in_order[1:] == in_order[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    order[tied] = order[tied][np.lexsort((order[tied], in_order[tied]))]
    return order


def precision_recall(
    scores: np.ndarray,
    targets: np.ndarray,
    ignore: np.ndarray | None = None,
    *,
    threshold: float = 0.5,
    topk: int | None = None,
    never_predicted: Literal["one", "zero"] = "one",
) -> dict[str, float]:
    """CP, CR, CF1 (averaged over labels) and OP, OR, OF1 (from summed counts), fractions in 0..1.

    A label is predicted where its score >= threshold; with topk, scores outside an image's k highest count as 0 first
    (equal scores: the lower label index is kept). never_predicted says what precision a label without predictions, and
    what recall a label without positives, adds to the average: `one` (the release) or `zero` (other groups).
    OP and OR are NaN, and so is OF1, where nothing is predicted or present at all.
    """
    scores, targets, counted = _as_arrays(scores, targets, ignore)
    if topk is not None:
        scores = keep_topk(scores, topk)
    counts = _count(scores >= threshold, targets, counted)
    return {name: float(value) for name, value in average_counts(*counts, never_predicted).items()}


def _count(predicted: np.ndarray, targets: np.ndarray, counted: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Right predictions, predictions and positives of each label, (L,) each."""
    if counted is not None:
        predicted, targets = predicted & counted, targets & counted
    sets = (predicted & targets, predicted, targets)
    return tuple(np.count_nonzero(marks, axis=0).astype(np.float64) for marks in sets)


def average_counts(
    true_positives: np.ndarray, predicted: np.ndarray, positives: np.ndarray, never_predicted: str = "one"
) -> dict[str, np.ndarray]:
    """CP, CR, CF1, OP, OR, OF1 from counts of true positives, predicted positives and positives, (..., L) each."""
    if never_predicted not in ("one", "zero"):
        raise ValueError(f"never_predicted={never_predicted!r}: choose 'one' or 'zero'")
    true_positives, predicted, positives = np.broadcast_arrays(true_positives, predicted, positives)
    low, least = (FLOOR, FLOOR) if never_predicted == "one" else (0.0, 1.0)
    cp = (np.maximum(true_positives, low) / np.maximum(predicted, least)).mean(axis=-1)
    cr = (np.maximum(true_positives, low) / np.maximum(positives, least)).mean(axis=-1)
    op, or_ = (_divide(true_positives.sum(axis=-1), whole.sum(axis=-1), np.nan) for whole in (predicted, positives))
    f1 = (_divide(2 * a * b, a + b, 0.0) for a, b in ((cp, cr), (op, or_)))
    return dict(zip(METRICS[1:], (cp, cr, next(f1), op, or_, next(f1)), strict=True))


def _divide(part: np.ndarray, whole: np.ndarray, otherwise: float) -> np.ndarray:
    """part / whole, and `otherwise` where whole is 0; NaN stays NaN."""
    return np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole != 0)


def evaluate_scores(
    scores: np.ndarray,
    targets: np.ndarray,
    ignore: np.ndarray | None = None,
    threshold: float = 0.5,
    topk: int = 3,
    *,
    never_predicted: Literal["one", "zero"] = "one",
) -> dict:
    """All metrics of one evaluation, fractions in 0..1.

    scores: (N, L) sigmoid outputs; targets: (N, L) 0/1; ignore: (N, L), 1 = left out of that label.
    Keys: `mAP`, `AP` (L,) by the release's rule; `mAP_non_interpolated`, `AP_non_interpolated` and `mAP_11_point` by
    the two others; CP CR CF1 OP OR OF1 at `threshold`; the same six as `top<k>_CP`, ...; `never_predicted` (the rule),
    `labels_never_predicted`, `top<k>_labels_never_predicted` and `labels_without_positives` (label indices the rule
    touched). An empty or malformed input raises ValueError. See `average_precision` and `precision_recall`.
    """
    scores, targets, counted = _as_arrays(scores, targets, ignore)
    ap, plain, eleven = _average_precisions(scores, targets, counted).values()
    metrics = {
        "mAP": float(ap.mean()),
        "AP": ap,
        "mAP_non_interpolated": float(plain.mean()),
        "AP_non_interpolated": plain,
        "mAP_11_point": float(eleven.mean()),
    }
    touched = {"never_predicted": never_predicted}
    for prefix, values in (("", scores), (f"top{topk}_", keep_topk(scores, topk))):
        counts = _count(values >= threshold, targets, counted)
        averages = average_counts(*counts, never_predicted)
        metrics |= {prefix + name: float(value) for name, value in averages.items()}
        touched[f"{prefix}labels_never_predicted"] = np.flatnonzero(counts[1] == 0).tolist()
    return metrics | touched | {"labels_without_positives": np.flatnonzero(counts[2] == 0).tolist()}


def keep_topk(scores: np.ndarray, k: int) -> np.ndarray:
    """A copy of (N, L) scores with 0 outside the k highest of each row; equal scores: the lower index is kept."""
    if k < 1:
        raise ValueError(f"topk={k} must be at least 1")
    if k >= scores.shape[1]:
        return scores.copy()
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    kept = scores >= least
    tied = np.flatnonzero(np.count_nonzero(kept, axis=1) > k)
    best = np.argsort(-scores[tied], axis=1, kind="stable")[:, :k]
    kept[tied] = False
    kept[tied[:, None], best] = True
    return np.where(kept, scores, 0)


def _as_arrays(scores, targets, ignore) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scores as float64, targets as bool, and where an entry counts (None: everywhere); checked."""
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores have shape {scores.shape}: (images, labels), neither 0, is needed")
    if targets.shape != scores.shape:
        raise ValueError(f"targets have shape {targets.shape}, scores {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    if not ((targets == 0) | (targets == 1)).all():
        raise ValueError("targets hold values other than 0 and 1")
    if ignore is None or np.asarray(ignore).shape[0] == 0:
        return scores, targets.astype(bool), None
    ignore = np.asarray(ignore)
    if ignore.shape != scores.shape:
        raise ValueError(f"ignore has shape {ignore.shape}, scores {scores.shape}")
    return scores, targets.astype(bool), ignore == 0
