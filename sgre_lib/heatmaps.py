"""Heatmaps: where in a photo each label looks, as figures and as arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .datasets.prepared import Split
from .distributed import choose_device
from .errors import UserError
from .evaluation import autocast, score_split
from .experiment import BEST, load_experiment, open_dataset
from .figures import draw_heatmap, judge, save_figure
from .files import write_array, write_json
from .model import PatchModel
from .photos import PhotoDataset, make_loader, move_pixels, read_photo, worker_count
from .transforms import make_transform


@torch.inference_mode()
def align(model: PatchModel, settings, paths: Sequence[Path], device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, L) and alignment maps (N, L, H, W) of some photos, one at a time, by a model in evaluation mode.

    A map sums to 1; see `PatchModel.alignment_maps` for models with a class token.
    Raises UserError where the model has no alignment (`branches: patch`).
    """
    transform = make_transform(settings, training=False)
    model = model.to(device).eval()
    scores, maps = [], []
    for path in paths:
        pixels = torch.from_numpy(transform(read_photo(path)))[None].to(device)
        output = model(pixels)
        aligned = model.alignment_maps(output)
        if aligned is None:
            raise UserError("this model has no object branch (branches: patch), so it aligns no label with patches")
        scores.append(torch.sigmoid(output.logits[0].float()).cpu().numpy())
        maps.append(aligned[0].float().cpu().numpy())
    return np.stack(scores), np.stack(maps)


@torch.inference_mode()
def average_correlation(
    model: PatchModel,
    settings,
    split: Split,
    device: torch.device,
    *,
    batch_size: int = 64,
    num_workers: int = -1,
) -> np.ndarray:
    """Patch-label correlation averaged over a split's patches and images, (L, L): how much goes to the column's label
    in images where the row's label is there.

    A row sums to 1; it is NaN where no image has the label. Where the label is ignored counts as absent, as in targets.
    Raises UserError where the model has no correlation: `branches` other than `both`, or a pooling baseline.
    """
    if settings.model != "mlic" or settings.branches != "both":
        raise UserError("this model has no patch-label correlation: it needs both branches of SGRE (branches: both)")
    dataset = PhotoDataset(split, make_transform(settings, training=False))
    loader = make_loader(dataset, worker_count(num_workers), device, batch_size=batch_size)
    model = model.to(device).eval()
    total = np.zeros((split.targets.shape[1],) * 2)
    for pixels, targets, _ in loader:
        images = move_pixels(pixels, device, dataset.transform.normalise)
        with autocast(device, settings.amp):
            correlation = model(images).correlation
        total += targets.numpy().T.astype(np.float64) @ correlation.mean(dim=1, dtype=torch.float64).cpu().numpy()
    counts = split.targets.sum(axis=0, dtype=np.float64)[:, None]
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)


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


def find_images(names: Sequence[str], split: Split) -> list[int]:
    """Indices of images given by listed path, file name or stem. Raises UserError for none or several of a name."""
    keys: dict[str, set[int]] = {}
    for index, listed in enumerate(split.names):
        path = Path(listed)
        for key in (listed, path.name, path.stem):
            keys.setdefault(key, set()).add(index)
    found = []
    for name in names:
        match = keys.get(name) or keys.get(Path(name).name) or set()
        if not match:
            raise UserError(f"--images {name}: no test image has this path, file name or stem")
        if len(match) > 1:
            some = ", ".join(split.names[i] for i in sorted(match)[:3])
            raise UserError(f"--images {name} is the name of {len(match)} test images ({some}): give the listed path")
        found += sorted(match)
    return found


def visualize(
    exp_dir: str | os.PathLike,
    *,
    images: Sequence[str] | str | None = None,
    limit: int = 10,
    labels: str = "present",
    threshold: float = 0.5,
    data: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw alignment maps of test images into `<exp_dir>/visualization/<image>/` and return those folders.

    images: test images by listed path, file name or stem; None: `limit` of them by `choose_images` (hits, false alarms
    and misses in turn), from `scores.npy` where `evaluate` has run, else scored now. labels: `present`, `predicted`, or
    names separated by commas; an image chosen by rule also shows the label it was chosen for.
    Each folder gets heatmap.png, alignment.npy (L, H, W) with the raw maps of all labels, and heatmap.json with labels,
    scores, truth and the alt text.
    """
    if limit < 1:
        raise UserError(f"--limit {limit} is below 1")
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold} is not between 0 and 1")
    model, settings, names = load_experiment(exp_dir, data=data, data_root=data_root)
    prepared = open_dataset(settings, data, data_root)
    if prepared.labels != names:
        raise UserError(f"{prepared.folder / 'label.txt'} has other labels than the experiment {exp_dir}")
    asked = [] if labels in ("present", "predicted") else [name.strip() for name in labels.split(",")]
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise UserError(
            f"--labels {unknown[0]}: not one of the labels (present, predicted, or {', '.join(names[:4])}, ...)"
        )
    chosen_device, split, folder = choose_device(device), prepared.split("test"), Path(exp_dir).expanduser()
    if images is not None:
        picked = [(i, "asked for", -1) for i in find_images([images] if isinstance(images, str) else images, split)]
    else:
        scores = find_scores(folder, model, settings, split, chosen_device)
        picked = choose_images(scores, split.targets, limit, threshold)
    folders = []
    stems = [Path(name).stem for name in split.names]
    for index, why, reason_label in picked:
        (scores_one,), (maps,) = align(model, settings, [split.paths[index]], chosen_device)
        present = split.targets[index].astype(bool)
        shown = _labels_to_show(labels, asked, names, scores_one, present, threshold)
        if reason_label >= 0 and reason_label not in shown:
            shown.append(reason_label)
        # Two photos of one stem in different folders must not share a folder here.
        unique = stems.count(stems[index]) == 1
        target = (
            folder / "visualization" / (stems[index] if unique else split.names[index].strip("/").replace("/", "__"))
        )
        target.mkdir(parents=True, exist_ok=True)
        figure = draw_heatmap(
            read_photo(split.paths[index]), maps[shown], [names[i] for i in shown], scores_one[shown], present[shown],
            threshold=threshold, title=Path(split.names[index]).name,
        )  # fmt: skip
        save_figure(figure, target / "heatmap.png")
        write_array(target / "alignment.npy", maps)
        rows = [
            {"label": names[i], "score": float(scores_one[i]), "present": bool(present[i]),
             "outcome": judge(scores_one[i], present[i], threshold)}
            for i in shown
        ]  # fmt: skip
        about = {"image": split.names[index], "chosen": why, "grid": list(model.head.grid), "labels": rows}
        write_json(target / "heatmap.json", about | {"alt_text": figure.alt_text})
        folders.append(target)
    return folders


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


def _labels_to_show(
    labels: str, asked: list[str], names: list[str], scores: np.ndarray, present: np.ndarray, threshold: float
) -> list[int]:
    """Label indices, highest score first; for `present` and `predicted` at least the best-scored label."""
    if asked:
        return [names.index(name) for name in asked]
    marked = present if labels == "present" else scores >= threshold
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    return [i for i in order if marked[i]] or order[:1]
