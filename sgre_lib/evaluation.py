"""Scoring a prepared dataset's test images with an experiment's model, and the files that say how it did."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .datasets.prepared import Split
from .distributed import choose_device
from .errors import UserError
from .experiment import load_experiment, open_dataset
from .files import write_array, write_json, write_text
from .memory import keep_freed_memory
from .metrics import evaluate_scores
from .photos import PhotoDataset, make_loader, move_pixels, naming_dead_loaders, worker_count
from .provenance import code_version, describe_device, package_versions
from .transforms import make_transform

SUMMARY = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")


def autocast(device: torch.device, amp: bool) -> torch.autocast:
    """Mixed precision for a block: bfloat16 where the device computes in it, else (on CUDA) float16."""
    dtype = torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtype = torch.float16
    return torch.autocast(device.type, dtype=dtype, enabled=amp)


@torch.inference_mode()
def score_images(
    models: Sequence[nn.Module],
    loader: DataLoader,
    device: torch.device,
    *,
    amp: bool = False,
    description: str = "scoring",
    progress: bool = True,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Scores of every model over one pass of the photos, and the index of each row.

    Returns ([scores (N, L) float32 for each model], indices (N)). Models are used in evaluation mode and left as found.
    """
    keep_freed_memory()
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    scores: list[list[np.ndarray]] = [[] for _ in models]
    indices = []
    try:
        bar = tqdm(loader, desc=description, unit="batch", leave=False, disable=not progress)
        with naming_dead_loaders():
            for pixels, _, index in bar:
                images = move_pixels(pixels, device, loader.dataset.transform.normalise)
                with autocast(device, amp):
                    outputs = [model(images).logits for model in models]
                for rows, logits in zip(scores, outputs, strict=True):
                    rows.append(torch.sigmoid(logits.float()).cpu().numpy())
                indices.append(index.numpy())
    finally:
        for model, training in zip(models, modes, strict=True):
            model.train(training)
    if not indices:  # fewer test images than processes: this one has none
        return [np.zeros((0, 0), np.float32) for _ in models], np.zeros(0, np.int64)
    return [np.concatenate(rows) for rows in scores], np.concatenate(indices)


def evaluate(
    exp_dir: str | os.PathLike,
    *,
    batch_size: int = 64,
    threshold: float = 0.5,
    topk: int = 3,
    data: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
    num_workers: int = -1,
    device: str = "auto",
    never_predicted: str = "one",
    progress: bool = True,
) -> dict:
    """Score the test images with an experiment's best EMA model, write the result files, and return the metrics.

    exp_dir: an experiment of ours or of the paper's authors. threshold: a label is predicted from this score on, in
    0..1. topk: k of the top-k metrics and of `prediction.txt`. data: another prepared dataset with the same labels.
    never_predicted: see `metrics.precision_recall`.
    Writes result.txt, result.json, prediction.txt, scores.npy and targets.npy (and ignore.npy where there is a mask)
    into exp_dir. The returned dictionary is `evaluate_scores`'s with `labels`, `images` and `exp_dir` added.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold} is not between 0 and 1")
    if topk < 1 or batch_size < 1:
        raise UserError("--topk and --batch-size must be at least 1")
    chosen = choose_device(device)
    model, settings, labels = load_experiment(exp_dir, data=data, data_root=data_root)
    prepared = open_dataset(settings, data, data_root)
    if prepared.labels != labels:
        raise UserError(f"{prepared.folder / 'label.txt'} has other labels than the experiment {exp_dir}")
    split = prepared.split("test")
    scores = score_split(
        model, split, settings, chosen, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    metrics = evaluate_scores(scores, split.targets, split.ignore, threshold, topk, never_predicted=never_predicted)
    about = {
        "data": prepared.name,
        "data_fingerprint": prepared.fingerprint(),
        "code_version": code_version(),
        "versions": package_versions(),
        "device": describe_device(chosen),
    }
    write_results(Path(exp_dir).expanduser(), labels, split, scores, metrics, threshold, topk, about)
    return metrics | {"labels": labels, "images": len(split), "exp_dir": str(exp_dir)}


def score_split(
    model: nn.Module, split: Split, settings, device: torch.device, *, batch_size: int, num_workers: int, progress: bool
) -> np.ndarray:
    """Scores (N, L) of a model for a split, in the split's order."""
    dataset = PhotoDataset(split, make_transform(settings, training=False))
    loader = make_loader(dataset, worker_count(num_workers), device, batch_size=batch_size)
    (scores,), _ = score_images([model.to(device)], loader, device, amp=settings.amp, progress=progress)
    return scores


def write_results(
    folder: Path,
    labels: list[str],
    split: Split,
    scores: np.ndarray,
    metrics: dict,
    threshold: float,
    topk: int,
    about: dict,
) -> None:
    """Write the files of an evaluation; result.json, which says that it is done, comes last."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    lines = (f"{name}\t{','.join(labels[i] for i in row)}\n" for name, row in zip(split.names, order, strict=True))
    write_text(folder / "prediction.txt", "".join(lines))
    write_array(folder / "scores.npy", scores)
    write_array(folder / "targets.npy", split.targets)
    if split.ignore is not None:
        write_array(folder / "ignore.npy", split.ignore)
    write_text(folder / "result.txt", format_result(labels, metrics, topk))
    per_label = {"AP": dict(zip(labels, metrics["AP"], strict=True))}
    per_label["AP_non_interpolated"] = dict(zip(labels, metrics["AP_non_interpolated"], strict=True))
    touched = {
        key: [labels[i] for i in metrics[key]]
        for key in ("labels_never_predicted", f"top{topk}_labels_never_predicted", "labels_without_positives")
    }
    content = {"images": len(split), "threshold": threshold, "topk": topk, **metrics, **per_label, **touched, **about}
    write_json(folder / "result.json", content)


def format_result(labels: list[str], metrics: dict, topk: int) -> str:
    """The text of result.txt: `name<TAB>value` with three decimals, the metrics and then a line a label (its AP)."""
    names = [*SUMMARY, *(f"top{topk}_{name}" for name in SUMMARY[1:]), "mAP_non_interpolated", "mAP_11_point"]
    rows = [(name, metrics[name]) for name in names] + list(zip(labels, metrics["AP"], strict=True))
    return "".join(f"{name}\t{value:.3f}\n" for name, value in rows)


def describe_metrics(metrics: dict, labels: list[str], topk: int) -> list[str]:
    """Lines for a person: the metrics in percent, and which rule was used for how many labels."""
    lines = [
        f"mAP {100 * metrics['mAP']:.2f}  (non-interpolated rule {100 * metrics['mAP_non_interpolated']:.2f})",
        "all    " + "  ".join(f"{name} {100 * metrics[name]:.1f}" for name in SUMMARY[1:]),
        f"top-{topk}  " + "  ".join(f"{name} {100 * metrics[f'top{topk}_{name}']:.1f}" for name in SUMMARY[1:]),
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
