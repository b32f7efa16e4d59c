"""All metrics of COCO's test images, ours against loops over labels and images as the definitions read.

    python tests/benchmarks/metrics.py [--repeats N] [--quick]

40,137 x 80 random scores. Both must agree to 1e-9. Writes experiments/benchmarks/metrics.csv.
"""

from __future__ import annotations

import argparse

import numpy as np
from timing import print_row, time_in_turn, write_rows

from sgre_lib import evaluate_scores

IMAGES, LABELS, TOPK = 40_137, 80, 3


def literal_average_precision(scores: list[float], targets: list[int]) -> tuple[float, float, float]:
    """AP of one label by the three rules: interpolated, non-interpolated, 11-point."""
    order = sorted(range(len(scores)), key=lambda image: -scores[image])
    found, precisions, recalls, total = 0, [], [], sum(targets)
    for rank, image in enumerate(order, 1):
        if targets[image]:
            found += 1
            precisions.append(found / rank)
            recalls.append(found / total)
    envelope, best = [], 0.0
    for precision in reversed(precisions):
        best = max(best, precision)
        envelope.append(best)
    eleven = 0.0
    for tenth in range(11):
        reached = [p for p, recall in zip(precisions, recalls, strict=True) if recall >= tenth / 10 - 1e-9]
        eleven += max(reached, default=0.0) / 11
    return sum(envelope) / max(1, total), sum(precisions) / max(1, total), eleven


def literal_counts(scores: list[list[float]], targets: list[list[int]]) -> list[float]:
    """CP, CR, CF1, OP, OR, OF1 at 0.5, counted label by label."""
    hits, guesses, truths = [0] * LABELS, [0] * LABELS, [0] * LABELS
    for label in range(LABELS):
        for row, truth in zip(scores, targets, strict=True):
            if row[label] >= 0.5:
                guesses[label] += 1
                hits[label] += truth[label]
            truths[label] += truth[label]
    cp = sum(h / g if g else 1.0 for h, g in zip(hits, guesses, strict=True)) / LABELS
    cr = sum(h / t if t else 1.0 for h, t in zip(hits, truths, strict=True)) / LABELS
    op, or_ = sum(hits) / sum(guesses), sum(hits) / sum(truths)
    return [cp, cr, 2 * cp * cr / (cp + cr), op, or_, 2 * op * or_ / (op + or_)]


def keep_best(row: list[float]) -> list[float]:
    """A row of scores with 0 outside its k highest."""
    best = sorted(range(len(row)), key=lambda label: -row[label])[:TOPK]
    return [score if label in best else 0.0 for label, score in enumerate(row)]


def evaluate_literally(scores: np.ndarray, targets: np.ndarray) -> list[float]:
    """mAP by three rules, the six counts-based metrics, and the same six of the top 3."""
    rows, truths = scores.tolist(), targets.tolist()
    columns = zip(zip(*rows, strict=True), zip(*truths, strict=True), strict=True)
    rules = np.mean([literal_average_precision(*column) for column in columns], axis=0)
    return [*rules, *literal_counts(rows, truths), *literal_counts([keep_best(row) for row in rows], truths)]


def evaluate_ours(scores: np.ndarray, targets: np.ndarray) -> list[float]:
    result = evaluate_scores(scores, targets, topk=TOPK)
    six = ("CP", "CR", "CF1", "OP", "OR", "OF1")
    means = [result[name] for name in ("mAP", "mAP_non_interpolated", "mAP_11_point")]
    return [*means, *(result[name] for name in six), *(result[f"top{TOPK}_{name}"] for name in six)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the images; nothing is written")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (IMAGES // 10 if options.quick else IMAGES, LABELS)
    scores, targets = rng.random(shape).astype(np.float32), (rng.random(shape) < 2.9 / LABELS).astype(np.uint8)
    np.testing.assert_allclose(evaluate_ours(scores, targets), evaluate_literally(scores, targets), rtol=1e-9)
    works = {"ours": lambda: evaluate_ours(scores, targets), "literal": lambda: evaluate_literally(scores, targets)}
    seconds = time_in_turn(works, options.repeats)
    case = f"{shape[0]} x {shape[1]}"
    row = [case, "all metrics", "seconds", *seconds.values(), seconds["literal"] / seconds["ours"]]
    print_row(row)
    if not options.quick:
        write_rows("metrics", ["case", "what", "unit", "ours", "literal", "ratio"], [row])


if __name__ == "__main__":
    main()
