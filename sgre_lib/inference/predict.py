"""The labels of any photos, by an experiment's model, and their heatmaps."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..base.device import choose_device
from ..base.errors import UserError
from ..images.dataloader import make_loader, move_pixels, worker_count
from ..images.reading import read_photo
from ..images.transforms import PhotoTransform, make_transform
from ..model.build import PatchModel
from ..model.experiment import load_experiment
from ..model.precision import autocast
from .photo_files import HEATMAP_SUFFIX, find_photos
from .predictions import Prediction, describe_unreadable, make_encodable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEATMAP_LABELS = 11
"""Labels in one figure: three rows of four panels, the photo being the first."""

HEATMAP_SIDE = 640
"""Longest side in pixels of the photo in a figure; panels are smaller than that."""


def predict(
    images: Sequence[str | os.PathLike] | str | os.PathLike,
    exp_dir: str | os.PathLike,
    *,
    threshold: float = 0.5,
    topk: int | None = None,
    heatmaps: str | os.PathLike | None = None,
    batch_size: int = 64,
    num_workers: int = -1,
    device: str = "auto",
    data: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[Prediction]:
    """The labels of photos, by the best EMA model of an experiment of ours or of the paper's authors.

    images: files, folders and glob patterns, see `find_photos`. threshold: a label is predicted from this score on, in
    0..1. topk: at most the k best of those (with threshold 0: the k best whatever their score). heatmaps: a folder for
    one figure a photo, `<name>.heatmap.png`, of its predicted labels (at least the best one, at most HEATMAP_LABELS);
    an older figure of that name is replaced. data, data_root: as in `load_experiment`.

    Photos are read and scored as `evaluate` does it: same transform (which turns no photo by its EXIF
    orientation), same precision, same numbers. Returns one `Prediction` for each photo, in the order in which they were
    found; a photo that cannot be read does not stop the others, its `error` says what is wrong. Raises UserError where
    no photo can be read, and for bad options.
    """
    folder = _check_options(threshold, topk, batch_size, heatmaps)
    chosen = choose_device(device)
    paths = find_photos(images)
    model, settings, labels = load_experiment(exp_dir, data=data, data_root=data_root)
    if folder is not None and settings.model == "mlic" and settings.branches == "patch":
        raise UserError("--heatmaps: this model has no object branch (branches: patch), so it aligns no label")
    figures = {} if folder is None else _figure_names(paths)
    if num_workers < 0 and len(paths) <= batch_size:
        num_workers = 0  # starting processes takes longer than reading a few photos
    photos = _AnyPhotos(paths, make_transform(settings, training=False))
    loader = make_loader(photos, worker_count(num_workers), chosen, batch_size=batch_size, collate_fn=_collate)
    predictions = []
    scored = _score(model, settings.amp, loader, len(labels), chosen, progress)
    for path, (scores, maps, error) in zip(paths, scored, strict=True):
        order = np.argsort(-scores, kind="stable")[:topk]
        kept = [int(i) for i in order if scores[i] >= threshold]
        predicted = [(labels[i], float(scores[i])) for i in kept]
        predictions.append(Prediction(path, predicted, scores, labels, error))
        if folder is not None and error is None:
            folder.mkdir(parents=True, exist_ok=True)
            shown = (kept or [int(order[0])])[:HEATMAP_LABELS]
            _write_figure(folder / figures[path], path, maps[shown], [labels[i] for i in shown], scores[shown])
    if all(one.error is not None for one in predictions):
        raise UserError(describe_unreadable(predictions))
    return predictions


def _check_options(
    threshold: float, topk: int | None, batch_size: int, heatmaps: str | os.PathLike | None
) -> Path | None:
    """UserError for an option that cannot be; the folder of the heatmaps."""
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold} is not between 0 and 1")
    if topk is not None and topk < 1:
        raise UserError(f"--topk {topk} is below 1")
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size} is below 1")
    folder = None if heatmaps is None else Path(heatmaps).expanduser()
    if folder is not None and any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
        raise UserError(f"--heatmaps {folder} is not a folder")
    return folder


class _AnyPhotos(Dataset):
    """(pixels (S, S, 3) uint8, None) of a photo file, or (None, what is wrong) where it cannot be read."""

    def __init__(self, paths: list[Path], transform: PhotoTransform):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | None, str | None]:
        try:
            return torch.from_numpy(np.array(self.transform.resize(read_photo(self.paths[index])))), None
        except UserError as error:
            return None, str(error)
        except Exception as error:  # whatever a decoder stumbles over: one bad file must not cost the others
            return None, f"the image {self.paths[index]} cannot be read ({type(error).__name__}: {error})"


def _collate(items: list[tuple]) -> tuple[torch.Tensor | None, list[str | None]]:
    """Pixels (B, S, S, 3) of the readable photos (None: there are none), and the error of every photo, or None."""
    pixels = [pixels for pixels, _ in items if pixels is not None]
    return torch.stack(pixels) if pixels else None, [error for _, error in items]


@torch.inference_mode()
def _score(
    model: PatchModel, amp: bool, loader: DataLoader, label_count: int, device: torch.device, progress: bool
) -> Iterator[tuple[np.ndarray, np.ndarray | None, str | None]]:
    """(scores (L,), alignment maps (L, H, W) or None, error or None) of each photo, in order."""
    model = model.to(device).eval()
    with tqdm(total=len(loader.dataset), desc="predicting", unit="image", leave=False, disable=not progress) as bar:
        for pixels, errors in loader:
            if pixels is not None:
                with autocast(device, amp):
                    output = model(move_pixels(pixels, device, loader.dataset.transform.normalise))
                scores = iter(torch.sigmoid(output.logits.float()).cpu().numpy())
                aligned = model.alignment_maps(output)
                maps = iter([None] * len(pixels) if aligned is None else aligned.float().cpu().numpy())
            for error in errors:
                unknown = np.full(label_count, np.nan, np.float32), None, error
                yield (next(scores), next(maps), None) if error is None else unknown
                bar.update()


def _figure_names(paths: list[Path]) -> dict[Path, str]:
    """The file name of each photo's figure; photos of one stem get their folders, and then a number, into it."""
    stems = Counter(path.stem for path in paths)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = path.stem
        if stems[name] > 1:
            name = "__".join(part for part in path.parts if part not in (path.anchor, ".", ".."))
        # Compared without case, as some file systems do.
        number, unique = 2, name
        while unique.lower() in taken:
            number, unique = number + 1, f"{name}__{number}"
        taken.add(unique.lower())
        names[path] = unique + HEATMAP_SUFFIX
    return names


def draw_prediction(
    photo: Image.Image, maps: np.ndarray, labels: Sequence[str], scores: Sequence[float], *, title: str = ""
) -> Figure:
    """The photo, and the alignment map of each label with its score: `draw_heatmap` where the truth is not known.

    maps: (labels, H, W), each summing to 1.
    """
    from ..figures import draw_heatmap

    photo = photo.copy()
    photo.thumbnail((HEATMAP_SIDE, HEATMAP_SIDE))
    return draw_heatmap(photo, maps, labels, scores, None, title=title, columns=4)


def _write_figure(target: Path, photo: Path, maps: np.ndarray, labels: list[str], scores: np.ndarray) -> None:
    # Drawing takes a second to import, which a prediction without figures need not wait for.
    from ..figures import save_figure

    figure = draw_prediction(read_photo(photo), maps, labels, scores, title=make_encodable(photo.name))
    with warnings.catch_warnings():
        # A file's name may be in a script that the font has not; boxes in the title are all that it costs.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        save_figure(figure, target)
