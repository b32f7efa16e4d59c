"""Which test photos get a heatmap: chosen by rule, and named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from ..datasets.prepared import Split
from ..evaluation.scoring import score_split
from ..model.build import PatchModel
from ..model.experiment import BEST


def choose_images(
    scores: np.ndarray, targets: np.ndarray, limit: int, threshold: float = 0.5
) -> list[tuple[int, str, int]]:
    """Up to `limit` test images worth looking at, by rule: (image, why, label), no image twice.

    In turn: the image whose least certain present label is most certain (`hit`), the most certain wrong label
    (`false alarm`), the least certain present label (`missed`), and so on. Where a kind runs out the others go on.
    scores, targets: (N, L). Ties go to the earlier image.
    """
    present = targets.astype(bool)
    certain = np.where(present.any(1), np.where(present, scores, np.inf).min(1), -np.inf)
    wrong, missed = np.where(present, -np.inf, scores), np.where(present, -scores, -np.inf)
    queues = {
        "hit": [(i, int(np.where(present[i], scores[i], -np.inf).argmax())) for i in np.argsort(-certain, kind="stable")
                if certain[i] >= threshold],
        "false alarm": [(i, int(wrong[i].argmax())) for i in np.argsort(-wrong.max(1), kind="stable")
                        if wrong[i].max() >= threshold],
        "missed": [(i, int(missed[i].argmax())) for i in np.argsort(-missed.max(1), kind="stable")
                   if -missed[i].max() < threshold],
    }  # fmt: skip
    chosen: list[tuple[int, str, int]] = []
    used: set[int] = set()
    while len(chosen) < limit and any(queues.values()):
        for why, queue in queues.items():
            while queue and int(queue[0][0]) in used:
                queue.pop(0)
            if queue and len(chosen) < limit:
                image, label = queue.pop(0)
                used.add(int(image))
                chosen.append((int(image), why, label))
    # A model that is never certain has no hits: any image is then better than none.
    spare = (i for i in range(len(scores)) if i not in used)
    while len(chosen) < min(limit, len(scores)):
        image = next(spare)
        chosen.append((image, "next in the list", int(scores[image].argmax())))
    return chosen


def choose_failures(
    scores: np.ndarray,
    targets: np.ndarray,
    limit: int,
    *,
    threshold: float = 0.5,
    ignore: np.ndarray | None = None,
    per_label: int = 2,
) -> list[tuple[int, str, int]]:
    """The worst decisions of all test images, by rule: (image, `false alarm` or `missed`, label), worst first in each.

    Taken in turn: the label that is absent with the highest score, and the label that is there with the lowest, as long
    as they are on the wrong side of the threshold. No image comes twice and no label more than `per_label` times, so
    that one hard photo or label does not fill the gallery; there may then be fewer than `limit`.
    scores, targets, ignore: (N, L). Ties go to the earlier image, then to the earlier label.
    """
    present = np.asarray(targets).astype(bool)
    counted = np.ones_like(present) if ignore is None else np.asarray(ignore) == 0
    queues = {}
    for why, wrong, badness in (
        ("false alarm", counted & ~present & (scores >= threshold), scores),
        ("missed", counted & present & (scores < threshold), -scores),
    ):
        cases = np.argwhere(wrong)
        queues[why] = cases[np.argsort(-badness[wrong], kind="stable")].tolist()[::-1]
    chosen: dict[str, list[tuple[int, str, int]]] = {why: [] for why in queues}
    images: set[int] = set()
    uses = [0] * present.shape[1]
    while any(queues.values()) and len(images) < limit:
        for why, queue in queues.items():
            while queue and (queue[-1][0] in images or uses[queue[-1][1]] >= per_label):
                queue.pop()
            if queue and len(images) < limit:
                image, label = queue.pop()
                chosen[why].append((image, why, label))
                images.add(image)
                uses[label] += 1
    return [case for cases in chosen.values() for case in cases]


def choose_gallery(exp_dir: str | os.PathLike) -> list[Path]:
    """One drawn heatmap of each kind (`hit`, `false alarm`, `missed`), as PNG paths; what `visualize` wrote last of it.

    An experiment without heatmaps gives an empty list.
    """
    first: dict[str, Path] = {}
    for path in sorted((Path(exp_dir) / "visualization").glob("*/heatmap.json")):
        kind = json.loads(path.read_text(encoding="utf-8"))["chosen"]
        first.setdefault(kind, path.with_suffix(".png"))
    return [first[kind] for kind in ("hit", "false alarm", "missed") if kind in first]


def find_scores(
    exp_dir: str | os.PathLike, model: PatchModel, settings, split: Split, device: torch.device
) -> np.ndarray:
    """Scores (N, L) of the test images: those that `evaluate` left, where they are of this model and split, or new ones."""
    scores = _stored_scores(Path(exp_dir).expanduser(), split)
    if scores is not None:
        return scores
    return score_split(model, split, settings, device, batch_size=64, num_workers=-1, progress=True)


def _stored_scores(folder: Path, split: Split) -> np.ndarray | None:
    """The scores that `evaluate` left, where they are of this split."""
    if (
        not (folder / "scores.npy").exists()
        or (folder / BEST).stat().st_mtime > (folder / "scores.npy").stat().st_mtime
    ):
        return None  # the model has been trained on since
    try:
        scores, targets = np.load(folder / "scores.npy"), np.load(folder / "targets.npy")
    except (OSError, ValueError):
        return None
    return scores if targets.shape == split.targets.shape and (targets == split.targets).all() else None
