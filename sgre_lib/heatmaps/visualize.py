"""Heatmaps: where in a photo each label looks, as figures and as arrays."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..base.device import choose_device
from ..base.errors import UserError
from ..base.files import write_array, write_json
from ..base.settings import check_limits
from ..datasets.prepared import Split
from ..figures import draw_heatmap, judge, save_figure
from ..images.reading import read_photo
from ..model.experiment import open_experiment
from .maps import align, check_alignment
from .photo_choice import choose_images, find_scores


def find_images(names: Sequence[str], split: Split) -> list[int]:
    """Indices of images given by listed path, file name or stem. Raises UserError for none or several of a name."""
    keys = [{listed, Path(listed).name, Path(listed).stem} for listed in split.names]
    found = []
    for name in names:
        for asked in (name, Path(name).name):
            match = [index for index, of_image in enumerate(keys) if asked in of_image]
            if match:
                break
        else:
            raise UserError(f"--images {name}: no test image has this path, file name or stem")
        if len(match) > 1:
            some = ", ".join(split.names[i] for i in match[:3])
            raise UserError(f"--images {name} is the name of {len(match)} test images ({some}): give the listed path")
        found += match
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

    images: as `find_images` takes them; None: `limit` of them by `choose_images` (hits, false alarms and misses in
    turn), from `scores.npy` where `evaluate` has run, else scored now. labels: `present`, `predicted`, or names
    separated by commas; an image chosen by rule also shows the label it was chosen for.
    Each folder (the image's stem; its whole path where another image has the stem too) gets heatmap.png, alignment.npy
    (L, H, W) with the raw maps of all labels, and heatmap.json with labels, scores, truth and the alt text.
    """
    check_limits(threshold=threshold, limit=limit)
    model, settings, prepared = open_experiment(exp_dir, data, data_root)
    check_alignment(settings, exp_dir)
    asked = [] if labels in ("present", "predicted") else [name.strip() for name in labels.split(",")]
    for name in asked:
        if name not in prepared.labels:
            known = f"present, predicted, or {', '.join(prepared.labels[:4])}, ..."
            raise UserError(f"--labels {name}: not one of the labels ({known})")
    chosen_device, split, folder = choose_device(device), prepared.split("test"), Path(exp_dir).expanduser()
    if images is None:
        scores = find_scores(folder, model, settings, split, chosen_device)
        picked = choose_images(scores, split.targets, limit, threshold)
    else:
        picked = [(i, "asked for", -1) for i in find_images([images] if isinstance(images, str) else images, split)]
    stems = Counter(Path(name).stem for name in split.names)
    folders = []
    for index, why, reason_label in picked:
        (scores,), (maps,) = align(model, settings, [split.paths[index]], chosen_device)
        present, name = split.targets[index].astype(bool), split.names[index]
        marked = present if labels == "present" else scores >= threshold
        order = np.argsort(-scores, kind="stable").tolist()
        shown = [prepared.labels.index(name) for name in asked] or [i for i in order if marked[i]] or order[:1]
        if reason_label >= 0 and reason_label not in shown:
            shown = [*shown, reason_label]
        stem, photo = Path(name).stem, read_photo(split.paths[index])
        target = folder / "visualization" / (stem if stems[stem] == 1 else name.strip("/").replace("/", "__"))
        target.mkdir(parents=True, exist_ok=True)
        cases = [prepared.labels[i] for i in shown], scores[shown], present[shown]
        figure = draw_heatmap(photo, maps[shown], *cases, threshold=threshold, title=Path(name).name)
        save_figure(figure, target / "heatmap.png")
        write_array(target / "alignment.npy", maps)
        rows = [
            {"label": label, "score": score, "present": there, "outcome": judge(score, there, threshold)}
            for label, score, there in zip(*cases, strict=True)
        ]
        about = {"image": name, "chosen": why, "grid": list(model.head.grid), "labels": rows}
        write_json(target / "heatmap.json", about | {"alt_text": figure.alt_text})
        folders.append(target)
    return folders
