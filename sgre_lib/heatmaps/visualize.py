"""Heatmaps: where in a photo each label looks, as figures and as arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..base.device import choose_device
from ..base.errors import UserError
from ..base.files import write_array, write_json
from ..datasets.prepared import Split
from ..figures import draw_heatmap, judge, save_figure
from ..images.reading import read_photo
from ..model.experiment import load_experiment, open_dataset
from .maps import align
from .photo_choice import choose_images, find_scores


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
    prepared = open_dataset(exp_dir, data, data_root)
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


def _labels_to_show(
    labels: str, asked: list[str], names: list[str], scores: np.ndarray, present: np.ndarray, threshold: float
) -> list[int]:
    """Label indices, highest score first; for `present` and `predicted` at least the best-scored label."""
    if asked:
        return [names.index(name) for name in asked]
    marked = present if labels == "present" else scores >= threshold
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    return [i for i in order if marked[i]] or order[:1]
