"""Which test photos get a heatmap: chosen by rule, and named."""

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..base.errors import UserError
from ..base.settings import TrainSettings
from ..datasets.prepared import Split
from ..evaluation.result_files import read_scores
from ..evaluation.scoring import score_split
from ..model.build import PatchModel
from ..model.experiment import BEST

Case = tuple[int, str, int]
"""An image, why it was chosen, and the label it was chosen for."""


def choose_images(scores: np.ndarray, targets: np.ndarray, limit: int, threshold: float = 0.5) -> list[Case]:
    """Up to `limit` test images worth looking at, by rule: (image, why, label), no image twice.

    In turn: the image whose least certain present label is most certain (`hit`), the most certain wrong label
    (`false alarm`), the least certain present label (`missed`), and so on. Where a kind runs out the others go on.
    scores, targets: (N, L). Ties go to the earlier image.
    """
    present = targets.astype(bool)
    certain = np.where(present, scores, np.inf).min(axis=1)
    best = np.where(present, scores, -np.inf).argmax(axis=1).tolist()
    order = np.argsort(-certain, kind="stable").tolist()
    hits = [(i, best[i]) for i in order if threshold <= certain[i] < np.inf]
    chosen = _take_turns({"hit": hits, **_queue_failures(scores, targets, threshold)}, limit)
    # A model that is never certain has no hits: any image is then better than none.
    used = {image for image, _, _ in chosen}
    spare = [i for i in range(len(scores)) if i not in used][: limit - len(chosen)]
    return chosen + [(image, "next in the list", int(scores[image].argmax())) for image in spare]


def choose_failures(
    scores: np.ndarray,
    targets: np.ndarray,
    limit: int,
    *,
    threshold: float = 0.5,
    ignore: np.ndarray | None = None,
    per_label: int = 2,
) -> list[Case]:
    """The worst decisions of all test images, by rule: (image, `false alarm` or `missed`, label), worst first in each.

    Taken in turn: the label that is absent with the highest score, and the label that is there with the lowest, as long
    as they are on the wrong side of the threshold. No image comes twice and no label more than `per_label` times, so
    that one hard photo or label does not fill the gallery; there may then be fewer than `limit`.
    scores, targets, ignore: (N, L). Ties go to the earlier image, then to the earlier label.
    """
    chosen = _take_turns(_queue_failures(scores, targets, threshold, ignore), limit, per_label)
    return sorted(chosen, key=lambda case: case[1])


def _queue_failures(
    scores: np.ndarray, targets: np.ndarray, threshold: float, ignore: np.ndarray | None = None
) -> dict[str, list[tuple[int, int]]]:
    """(image, label) of each false alarm and of each miss, the worst first."""
    present = np.asarray(targets).astype(bool)
    wrong = (present != (scores >= threshold)) & (True if ignore is None else np.asarray(ignore) == 0)
    badness = np.where(present, -scores, scores)
    kinds = {"false alarm": wrong & ~present, "missed": wrong & present}
    return {why: np.argwhere(kind)[np.argsort(-badness[kind], kind="stable")].tolist() for why, kind in kinds.items()}


def _take_turns(queues: Mapping[str, Sequence[tuple[int, int]]], limit: int, per_label: float = math.inf) -> list[Case]:
    """Up to `limit` cases, one of each kind in turn, no image twice and no label more than `per_label` times.

    queues: kind -> (image, label) in the order of preference. Where a kind runs out the others go on.
    """
    waiting = {why: iter(queue) for why, queue in queues.items()}
    chosen: list[Case] = []
    images: set[int] = set()
    uses: Counter[int] = Counter()
    while waiting and len(chosen) < limit:
        for why, queue in list(waiting.items()):
            case = next((one for one in queue if one[0] not in images and uses[one[1]] < per_label), None)
            if case is None:
                del waiting[why]
            elif len(chosen) < limit:
                chosen.append((case[0], why, case[1]))
                images.add(case[0])
                uses[case[1]] += 1
    return chosen


def choose_gallery(exp_dir: str | os.PathLike) -> list[Path]:
    """One drawn heatmap of each kind (`hit`, `false alarm`, `missed`), as PNG paths; what `visualize` wrote last of it.

    An experiment without heatmaps gives an empty list.
    """
    paths = sorted((Path(exp_dir) / "visualization").glob("*/heatmap.json"), reverse=True)
    first = {json.loads(path.read_text(encoding="utf-8"))["chosen"]: path.with_suffix(".png") for path in paths}
    return [first[kind] for kind in ("hit", "false alarm", "missed") if kind in first]


def find_scores(
    exp_dir: str | os.PathLike, model: PatchModel, settings: TrainSettings, split: Split, device: torch.device
) -> np.ndarray:
    """Scores (N, L) of the test images: those that `evaluate` left, where they are of this model and split, or new ones."""
    folder = Path(exp_dir).expanduser()
    stored = folder / "scores.npy"
    if stored.exists() and (folder / BEST).stat().st_mtime <= stored.stat().st_mtime:  # not trained on since
        with contextlib.suppress(UserError):
            scores, targets, _ = read_scores(folder)
            if np.array_equal(targets, split.targets):
                return scores
    return score_split(model, split, settings, device, batch_size=64, num_workers=-1, progress=True)
