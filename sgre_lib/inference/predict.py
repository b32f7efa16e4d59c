"""The labels of any photos, by an experiment's model: as objects, as text, JSON or CSV, and as heatmap figures."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from ..images.transforms import TestTransform, make_transform
from ..model.build import PatchModel
from ..model.experiment import load_experiment
from ..model.precision import autocast

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm",
    ".pnm",
)  # fmt: skip
"""Endings of file names (in any case) that are photos in a folder or a pattern. A file given by name may have any."""

HEATMAP_SUFFIX = ".heatmap.png"
"""Ending of the figures of `predict`, which are never taken for photos."""

FORMATS = ("text", "json", "csv")

HEATMAP_LABELS = 11
"""Labels in one figure: three rows of four panels, the photo being the first."""

HEATMAP_SIDE = 640
"""Longest side in pixels of the photo in a figure; panels are smaller than that."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one photo.

    image: the path, as it was given or found. labels: (label, score) of each predicted label, highest score first.
    scores: (L,) float32, of every label, in the order of `names`. Where the photo cannot be read scores are NaN, and
    `error` says why.
    """

    image: Path
    labels: list[tuple[str, float]]
    scores: np.ndarray
    names: list[str]
    error: str | None = None


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
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold} is not between 0 and 1")
    if topk is not None and topk < 1:
        raise UserError(f"--topk {topk} is below 1")
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size} is below 1")
    folder = None if heatmaps is None else Path(heatmaps).expanduser()
    if folder is not None and any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
        raise UserError(f"--heatmaps {folder} is not a folder")
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
    for path, scores, maps, error in _score(model, settings.amp, loader, paths, len(labels), chosen, progress):
        order = np.argsort(-scores, kind="stable")[:topk]
        kept = [int(i) for i in order if scores[i] >= threshold]
        predicted = [(labels[i], float(scores[i])) for i in kept]
        predictions.append(Prediction(path, predicted, scores, labels, error))
        if folder is not None and error is None:
            folder.mkdir(parents=True, exist_ok=True)
            shown = (kept or [int(order[0])])[:HEATMAP_LABELS]
            _write_figure(folder / figures[path], path, maps[shown], [labels[i] for i in shown], scores[shown])
    unreadable = [one for one in predictions if one.error is not None]
    if len(unreadable) == len(predictions):
        raise UserError(describe_unreadable(predictions))
    return predictions


def find_photos(images: Sequence[str | os.PathLike] | str | os.PathLike) -> list[Path]:
    """The files that paths, folders and patterns name, in their order, each once.

    A folder stands for the photos in it at any depth, sorted by path; a pattern (`*`, `?`, `[...]`, `**` for folders at
    any depth) for the photos and folders that match, sorted. There, photos are told by SUFFIXES, and hidden files and
    folders and our own heatmap figures are left out. A name that exists is never a pattern. Where a backslash makes no
    name or pattern that matches, it is read as Windows writes paths.
    Raises UserError for what names no photo, and where no images are given.
    """
    given = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    found: list[Path] = []
    for one in given:
        name = os.fspath(one)
        matches = _expand(name) or (_expand(name.replace("\\", "/")) if "\\" in name else [])
        if not matches:
            raise UserError(_reason_for_none(name))
        found += matches
    if not found:
        raise UserError("no image is given: name files, folders or patterns such as 'photos/*.jpg'")
    return list(dict.fromkeys(found))


def _expand(name: str) -> list[Path]:
    """The photos that a path, folder or pattern stands for, sorted; none where it is no such thing."""
    path = Path(name).expanduser()
    if not name:  # pathlib's current folder, but most likely a variable of the shell's that is not set
        return []
    if path.is_dir():
        return sorted(_walk(path))
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        return []
    # The part that exists as it stands is no pattern, whatever signs are in it.
    stem = next(parent for parent in path.parents if parent.exists())
    pattern = os.path.join(glob.escape(str(stem)), path.relative_to(stem))
    photos: list[Path] = []
    for match in sorted(map(Path, glob.glob(pattern, recursive=True))):
        if match.is_dir():
            photos += sorted(_walk(match))
        elif _is_photo(match.name):
            photos.append(match)
    return photos


def _walk(folder: Path) -> Iterator[Path]:
    """The photos in a folder at any depth; a link to a folder is followed, once."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in files if _is_photo(name))


def _is_photo(name: str) -> bool:
    name = name.lower()
    return name.endswith(SUFFIXES) and not name.endswith(HEATMAP_SUFFIX) and not name.startswith(".")


def _reason_for_none(name: str) -> str:
    if Path(name).expanduser().is_dir() and name:
        return f"the folder {name} holds no image ({', '.join(SUFFIXES[:6])}, ...)"
    if glob.has_magic(name):
        return f"the pattern {name} matches no image ({', '.join(SUFFIXES[:6])}, ...)"
    return f"the image {name or repr(name)} is missing"


class _AnyPhotos(Dataset):
    """(pixels (S, S, 3) uint8, index, error) of photo files; pixels and error are None by turns."""

    def __init__(self, paths: list[Path], transform: TestTransform):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | None, int, str | None]:
        try:
            image = self.transform.resize(read_photo(self.paths[index]))
            return torch.from_numpy(np.array(image)), index, None
        except UserError as error:
            return None, index, str(error)
        except Exception as error:  # whatever a decoder stumbles over: one bad file must not cost the others
            return None, index, f"the image {self.paths[index]} cannot be read ({type(error).__name__}: {error})"


def _collate(items: list[tuple]) -> tuple[torch.Tensor | None, list[int], list[tuple[int, str]]]:
    """Pixels (B, S, S, 3) of the readable photos (None: there are none), their indices, (index, error) of the others."""
    pixels = [item[0] for item in items if item[2] is None]
    readable = [item[1] for item in items if item[2] is None]
    return torch.stack(pixels) if pixels else None, readable, [item[1:] for item in items if item[2] is not None]


@torch.inference_mode()
def _score(
    model: PatchModel,
    amp: bool,
    loader: DataLoader,
    paths: list[Path],
    label_count: int,
    device: torch.device,
    progress: bool,
) -> Iterator[tuple[Path, np.ndarray, np.ndarray | None, str | None]]:
    """(path, scores (L,), alignment maps (L, H, W) or None, error or None) of each photo, in order."""
    model = model.to(device).eval()
    with tqdm(total=len(paths), desc="predicting", unit="image", leave=False, disable=not progress) as bar:
        for pixels, readable, unreadable in loader:
            rows = {i: (paths[i], np.full(label_count, np.nan, np.float32), None, error) for i, error in unreadable}
            if pixels is not None:
                with autocast(device, amp):
                    output = model(move_pixels(pixels, device, loader.dataset.transform.normalise))
                scores = torch.sigmoid(output.logits.float()).cpu().numpy()
                aligned = model.alignment_maps(output)
                maps = [None] * len(readable) if aligned is None else aligned.float().cpu().numpy()
                rows |= {i: (paths[i], scores[row], maps[row], None) for row, i in enumerate(readable)}
            for index in sorted(rows):
                yield rows[index]
                bar.update()


def _figure_names(paths: list[Path]) -> dict[Path, str]:
    """The file name of each photo's figure; photos of one stem get their folders, and then a number, into it."""
    stems = [path.stem for path in paths]
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = path.stem
        if stems.count(name) > 1:
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

    figure = draw_prediction(read_photo(photo), maps, labels, scores, title=_encodable(photo.name))
    with warnings.catch_warnings():
        # A file's name may be in a script that the font has not; boxes in the title are all that it costs.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        save_figure(figure, target)


def describe_unreadable(predictions: Sequence[Prediction]) -> str:
    """One line that names the photos that cannot be read (the first ten) with the reasons; empty where there are none."""
    errors = [one.error for one in predictions if one.error is not None]
    if len(errors) < 2:
        return "".join(errors)
    more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
    return f"{len(errors)} of {len(predictions)} images cannot be read: {'; '.join(errors[:10])}{more}"


def format_predictions(predictions: Sequence[Prediction], form: str = "text") -> str:
    """Predictions as a text that ends with a newline; scores are fractions.

    `text`: `image<TAB>label score, label score, ...`, a line an image, three decimals. `csv`: the columns
    image,label,score, a row for each predicted label (none for an image without one). `json`: a list of objects with
    `image`, `labels` (the predicted ones, a list of `label` and `score`) and `scores` (label -> score, of every label);
    of an image that cannot be read `image` and `error`. Text and CSV leave such images out. JSON and CSV have all
    digits of the float32 scores.
    Raises UserError for another format.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form}: choose from {', '.join(FORMATS)}")
    readable = [one for one in predictions if one.error is None]
    if form == "text":
        rows = (", ".join(f"{label} {score:.3f}" for label, score in one.labels) for one in readable)
        return _encodable("".join(f"{one.image}\t{row}\n" for one, row in zip(readable, rows, strict=True)))
    if form == "csv":
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", "score"])
        writer.writerows([one.image, label, _digits(score)] for one in readable for label, score in one.labels)
        return _encodable(file.getvalue())
    content: list[dict] = []
    for one in predictions:
        if one.error is not None:
            content.append({"image": str(one.image), "error": one.error})
            continue
        labels = [{"label": label, "score": _digits(score)} for label, score in one.labels]
        scores = dict(zip(one.names, map(_digits, one.scores), strict=True))
        content.append({"image": str(one.image), "labels": labels, "scores": scores})
    # A line an image, which line tools can cut and people can read.
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in content)
    return _encodable(f"[\n{lines}\n]\n")


def _encodable(text: str) -> str:
    """A text with file names in it, as UTF-8 can say it: bytes of a name that are no UTF-8 are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _digits(score: float) -> float:
    """A float32 score as the shortest number that says it: 0.9, not 0.8999999761581421."""
    return float(str(np.float32(score)))
