"""The files that an evaluation leaves in an experiment folder: written, read, and in words."""

import os
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import read_array, write_array, write_json, write_text
from ..datasets.prepared import Split
from .metrics import METRICS


def write_results(
    folder: Path, labels: list[str], split: Split, scores: np.ndarray, metrics: dict, about: dict
) -> None:
    """Write the files of an evaluation; result.json, which says that it is done, comes last.

    scores: (N, L). metrics: of `evaluate_scores`, after `images`, `threshold` and `topk`. prediction.txt has a line an
    image with its topk labels; result.txt `name<TAB>value` with three decimals, the metrics and then the AP of each label.
    """
    topk = metrics["topk"]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    lines = (f"{name}\t{','.join(labels[i] for i in row)}\n" for name, row in zip(split.names, order, strict=True))
    write_text(folder / "prediction.txt", "".join(lines))
    for name, array in (("scores", scores), ("targets", split.targets), ("ignore", split.ignore)):
        if array is not None:
            write_array(folder / f"{name}.npy", array)
    names = [*METRICS, *(f"top{topk}_{name}" for name in METRICS[1:]), "mAP_non_interpolated", "mAP_11_point"]
    rows = [(name, metrics[name]) for name in names] + list(zip(labels, metrics["AP"], strict=True))
    write_text(folder / "result.txt", "".join(f"{name}\t{value:.3f}\n" for name, value in rows))
    content = dict(metrics)
    for key in ("AP", "AP_non_interpolated"):
        content[key] = dict(zip(labels, metrics[key], strict=True))
    for key in ("labels_never_predicted", f"top{topk}_labels_never_predicted", "labels_without_positives"):
        content[key] = [labels[i] for i in metrics[key]]
    write_json(folder / "result.json", content | about)


def describe_metrics(metrics: dict, labels: list[str], topk: int) -> list[str]:
    """Lines for a person: the metrics in percent, and which rule was used for how many labels."""
    lines = [
        f"mAP {100 * metrics['mAP']:.2f}  (non-interpolated rule {100 * metrics['mAP_non_interpolated']:.2f})",
        "all    " + "  ".join(f"{name} {100 * metrics[name]:.1f}" for name in METRICS[1:]),
        f"top-{topk}  " + "  ".join(f"{name} {100 * metrics[f'top{topk}_{name}']:.1f}" for name in METRICS[1:]),
    ]
    value = "1" if metrics["never_predicted"] == "one" else "0"
    for key, what in (
        ("labels_never_predicted", f"never predicted, counted as precision {value}"),
        ("labels_without_positives", f"without a test image, counted as recall {value} and AP 0"),
    ):
        if metrics[key]:
            some = ", ".join(labels[i] for i in metrics[key][:8]) + (", ..." if len(metrics[key]) > 8 else "")
            lines.append(f"{len(metrics[key])} labels {what}: {some}")
    return lines


def read_scores(exp_dir: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scores (N, L), targets (N, L) and mask (N, L) or None that `evaluate` left in an experiment.

    Raises UserError where it has not been evaluated, or where the arrays do not fit each other.
    """
    folder = Path(exp_dir).expanduser()
    if not (folder / "scores.npy").exists():
        raise UserError(f"{folder} has no scores.npy: evaluate it first (sgre evaluate --exp-dir {folder})")
    scores, targets = read_array(folder / "scores.npy"), read_array(folder / "targets.npy")
    ignore = read_array(folder / "ignore.npy") if (folder / "ignore.npy").exists() else None
    if scores.shape != targets.shape or (ignore is not None and ignore.shape != scores.shape):
        raise UserError(f"{folder}: scores.npy, targets.npy and ignore.npy are of different shapes")
    return scores, targets, ignore
