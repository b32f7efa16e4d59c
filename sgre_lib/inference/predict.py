"""The labels of any photos, by an experiment's model, and their heatmaps."""

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from ..base.device import choose_device
from ..base.errors import UserError
from ..base.settings import check_limits
from ..heatmaps.maps import check_alignment, run_model
from ..images.reading import read_photo
from ..images.transforms import PhotoTransform, make_transform
from ..model.build import PatchModel
from ..model.experiment import load_experiment
from ..model.head import HeadOutput
from .photo_files import HEATMAP_SUFFIX, find_photos
from .predictions import Prediction, describe_unreadable, make_encodable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEATMAP_LABELS = 11  # in one figure: three rows of four panels, the photo being the first
HEATMAP_SIDE = 640  # longest side in pixels of the photo in a figure; panels are smaller than that


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
    check_limits(threshold=threshold, topk=topk, batch_size=batch_size)
    folder = None if heatmaps is None else Path(heatmaps).expanduser()
    if folder is not None and any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
        raise UserError(f"--heatmaps {folder} is not a folder")
    chosen = choose_device(device)
    paths = find_photos(images)
    model, settings, labels = load_experiment(exp_dir, data=data, data_root=data_root)
    if folder is not None:
        check_alignment(settings, "--heatmaps: this model")
    figures = {} if folder is None else _figure_names(paths)
    if num_workers < 0 and len(paths) <= batch_size:
        num_workers = 0  # starting processes takes longer than reading a few photos
    photos = _AnyPhotos(paths, make_transform(settings, training=False))
    loading = {"batch_size": batch_size, "num_workers": num_workers, "collate_fn": _collate}
    scored = _score(model, run_model(model, settings, photos, chosen, **loading))
    bar = tqdm(scored, "predicting", len(paths), unit="image", leave=False, disable=not progress)
    predictions = []
    for path, (scores, maps, error) in zip(paths, bar, strict=True):
        order = [int(i) for i in np.argsort(-scores, kind="stable")[:topk]]
        kept = [i for i in order if scores[i] >= threshold]
        predictions.append(Prediction(path, [(labels[i], float(scores[i])) for i in kept], scores, labels, error))
        if folder is not None and error is None:
            folder.mkdir(parents=True, exist_ok=True)
            shown = (kept or order)[: HEATMAP_LABELS if kept else 1]
            names = [labels[i] for i in shown]
            write_figure(folder / figures[path], read_photo(path), maps[shown], names, scores[shown], path.name)
    if all(one.error is not None for one in predictions):
        raise UserError(describe_unreadable(predictions))
    return predictions


class _AnyPhotos(Dataset):
    """(pixels (S, S, 3) uint8, "") of a photo file, or (black ones, what is wrong) where it cannot be read."""

    def __init__(self, paths: list[Path], transform: PhotoTransform):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        try:
            return torch.from_numpy(np.array(self.transform.resize(read_photo(self.paths[index])))), ""
        except UserError as error:
            wrong = str(error)
        except Exception as error:  # whatever a decoder stumbles over: one bad file must not cost the others
            wrong = f"the image {self.paths[index]} cannot be read ({type(error).__name__}: {error})"
        return torch.zeros(self.transform.image_size, self.transform.image_size, 3, dtype=torch.uint8), wrong


def _collate(items: list[tuple[torch.Tensor, str]]) -> tuple[torch.Tensor, list[str]]:
    """Pixels (B, S, S, 3) of the readable photos, of one black one where there are none, and the error of each photo."""
    pixels = [pixels for pixels, error in items if not error] or [items[0][0]]
    return torch.stack(pixels), [error for _, error in items]


def _score(
    model: PatchModel, outputs: Iterator[tuple[HeadOutput, list[str]]]
) -> Iterator[tuple[np.ndarray, np.ndarray | None, str | None]]:
    """(scores (L,), alignment maps (L, H, W) or None, error or None) of each photo, in order."""
    for output, errors in outputs:
        scores = torch.sigmoid(output.logits.float()).cpu().numpy()
        aligned = model.alignment_maps(output)
        maps = [None] * len(scores) if aligned is None else aligned.float().cpu().numpy()
        readable = zip(scores, maps, strict=True)
        for error in errors:
            yield (np.full_like(scores[0], np.nan), None, error) if error else (*next(readable), None)


def _figure_names(paths: list[Path]) -> dict[Path, str]:
    """The file name of each photo's figure; photos of one stem get their folders, and then a number, into it."""
    stems = Counter(path.stem for path in paths)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = path.stem
        if stems[name] > 1:
            name = "__".join(part for part in path.parts if part not in (path.anchor, ".", ".."))
        numbered = itertools.chain([name], (f"{name}__{number}" for number in itertools.count(2)))
        names[path] = next(one for one in numbered if one.lower() not in taken)
        taken.add(names[path].lower())  # without case, as some file systems compare names
    return {path: name + HEATMAP_SUFFIX for path, name in names.items()}


def write_figure(
    target: Path, photo: Image.Image, maps: np.ndarray, labels: Sequence[str], scores: Sequence[float], title: str = ""
) -> "Figure":
    """Write a PNG of the photo and the alignment map of each label with its score, and return the figure.

    maps: (labels, H, W), each summing to 1. The truth is not known.
    """
    # Drawing takes a second to import, which a prediction without figures need not wait for.
    from ..figures import draw_heatmap, save_figure

    photo = photo.copy()
    photo.thumbnail((HEATMAP_SIDE, HEATMAP_SIDE))
    figure = draw_heatmap(photo, maps, labels, scores, None, title=make_encodable(title), columns=4)
    with warnings.catch_warnings():
        # A file's name may be in a script that the font has not; boxes in the title are all that it costs.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        save_figure(figure, target)
    return figure
