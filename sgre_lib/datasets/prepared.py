"""The prepared form: the one layout that training and evaluation read, and the door for anybody's own photos.

A prepared folder holds

    label.txt     one label a line; the line number is the label's index
    train.txt     one image a line: path<TAB>label,label,...   (nothing after the tab: an image without a label)
    test.txt      the same for the test images
    ignore.npy    optional, (test images, L): 1 where this image is left out when this label is scored
    <name>.npy    optional label embeddings (L, T): bert.npy, glove.npy, ...
    test_boxes.jsonl  optional: where each label is in the test photos (see `boxes`)
    prepared.json optional: where it came from, counts, fingerprint
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import fingerprint, read_array, read_lines, write_array, write_json, write_text
from ..base.places import working_root
from .boxes import ImageBoxes, read_boxes, write_boxes

SPLITS = ("train", "test")


def default_data_root() -> Path:
    """The folder of raw datasets where none is given: `SGRE_DATA_ROOT`, else `data/raw`."""
    from_environment = os.environ.get("SGRE_DATA_ROOT")
    return Path(from_environment).expanduser() if from_environment else working_root() / "data" / "raw"


def choose_data_root(given: str | os.PathLike | None, folder: Path | None = None) -> Path:
    """The data root as given, else the environment's, else the one that `folder` was prepared from, else `data/raw`."""
    if given is not None:
        return Path(given).expanduser()
    if folder is not None and "SGRE_DATA_ROOT" not in os.environ:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            recorded = Path(json.loads((folder / "prepared.json").read_text(encoding="utf-8"))["data_root"])
            if recorded.is_dir():
                return recorded
    return default_data_root()


def prepared_folder(data: str | os.PathLike) -> Path:
    """The prepared folder that `data` names: a dataset's name stands for `data/<name>`, anything else is a path."""
    text = os.fspath(data)
    named = working_root() / "data" / text
    path = Path(text).expanduser()
    is_name = os.sep not in text and "/" not in text and text not in ("", ".", "..")
    if is_name and (named.is_dir() or not path.is_dir()):
        return named
    # A relative path written at the top of the checkout also works from a notebook, whose kernel starts below it.
    return path if path.is_dir() or not (working_root() / path).is_dir() else working_root() / path


@dataclass(frozen=True)
class Split:
    """The images of one split, in the order of its list.

    names: the paths as the list has them (what results are reported under). paths: the files they were found at.
    targets: (N, L) uint8. ignore: (N, L) uint8 or None.
    """

    names: list[str]
    paths: list[Path]
    targets: np.ndarray
    ignore: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)


class PreparedDataset:
    """A prepared folder, read and checked when first asked for.

    Raises UserError, naming file and line, for a missing list, an unknown label, a duplicate label, a mask of the
    wrong shape, or an image that is found neither in the folder nor under the data root.
    """

    def __init__(self, data: str | os.PathLike, data_root: str | os.PathLike | None = None):
        self.folder = prepared_folder(data)
        if not self.folder.is_dir():
            name = self.folder.name
            known = f" (make it with: sgre prepare --data {name})" if name in DATASET_NAMES else ""
            raise UserError(f"the prepared folder {self.folder} does not exist{known}")
        self.data_root = choose_data_root(data_root, self.folder)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def labels(self) -> list[str]:
        path = self.folder / "label.txt"
        labels = [line.strip() for line in read_lines(path, "the list of labels")]
        for number, label in enumerate(labels, 1):
            if not label:
                raise UserError(f"{path} line {number}: an empty label")
            if "," in label or "\t" in label:
                raise UserError(f"{path} line {number}: {label!r} has a comma or a tab, which separate labels in lists")
            if labels.index(label) != number - 1:
                raise UserError(f"{path} line {number}: {label!r} is there twice")
        if not labels:
            raise UserError(f"{path} holds no label")
        return labels

    def read_list(self, split: str) -> tuple[list[str], np.ndarray]:
        """Image names and targets (N, L) of `train` or `test`, without looking for the files."""
        path = self.folder / f"{split}.txt"
        index = {label: number for number, label in enumerate(self.labels)}
        lines = read_lines(path, f"the list of {split} images")
        if not lines:
            raise UserError(f"{path} names no image")
        names, targets = [], np.zeros((len(lines), len(index)), np.uint8)
        for row, line in enumerate(lines):
            name, _, rest = line.partition("\t")
            if not name.strip():
                raise UserError(f"{path} line {row + 1}: no image path")
            names.append(name)
            for label in filter(None, (part.strip() for part in rest.split(","))):
                if label not in index:
                    raise UserError(f"{path} line {row + 1}: the label {label!r} is not in {self.folder / 'label.txt'}")
                targets[row, index[label]] = 1
        return names, targets

    @cached_property
    def ignore(self) -> np.ndarray | None:
        """The mask of the test images, (N, L) uint8, or None."""
        path = self.folder / "ignore.npy"
        if not path.exists():
            return None
        mask = read_array(path)
        expected = (len(self.read_list("test")[0]), len(self.labels))
        if mask.shape != expected:
            raise UserError(f"{path} has shape {mask.shape}, but test.txt and label.txt ask for {expected}")
        return (mask != 0).astype(np.uint8)

    def find_photo(self, name: str) -> Path | None:
        """The file of an image that a list names: in the folder (or absolute), else under the data root, else None."""
        places = (self.folder / name, self.data_root / name)
        return next((path for path in places if os.path.exists(path)), None)

    def split(self, name: str) -> Split:
        """The `train` or `test` images, each found on the disk."""
        names, targets = self.read_list(name)
        paths = [self.find_photo(image) for image in names]
        missing = [image for image, path in zip(names, paths, strict=True) if path is None]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{self.folder / (name + '.txt')}: image {missing[0]}{more} is neither at {self.folder / missing[0]} "
                f"nor at {self.data_root / missing[0]} (set --data-root or SGRE_DATA_ROOT)"
            )
        return Split(names, paths, targets, self.ignore if name == "test" else None)

    def boxes(self, split: str) -> list[dict[int, np.ndarray]] | None:
        """Boxes of each image of a split, in its list's order: label index -> (n, 4), fractions x0, y0, x1, y1.

        None where the folder has no file of them. Only `test` has one where `prepare` wrote the folder.
        """
        path = self.folder / f"{split}_boxes.jsonl"
        return read_boxes(path, self.read_list(split)[0], self.labels) if path.exists() else None

    def fingerprint(self) -> str:
        """SHA-256 over labels, lists and mask: equal for two people who prepared the same data, wherever it lies.

        The photos themselves are not read, and boxes do not count: no training or metric of scores depends on them.
        """
        parts: list[bytes | str] = ["\n".join(self.labels)]
        for split in SPLITS:
            names, targets = self.read_list(split)
            parts += ["\n".join(names), targets.tobytes()]
        return fingerprint([*parts, b"" if self.ignore is None else self.ignore.tobytes()])

    def summary(self) -> dict:
        """Counts a person checks first: images, labels, labels an image, images without a label, fingerprint."""
        result: dict = {"labels": len(self.labels)}
        for split in SPLITS:
            _, targets = self.read_list(split)
            result[split] = {
                "images": len(targets),
                "labels_an_image": round(float(targets.sum(1).mean()), 3),
                "images_without_label": int((targets.sum(1) == 0).sum()),
                "labels_never_present": [label for label, n in zip(self.labels, targets.sum(0), strict=True) if n == 0],
            }
        result["ignored"] = 0 if self.ignore is None else int(self.ignore.sum())
        return result | {"fingerprint": self.fingerprint()}


DATASET_NAMES = ("mini", "voc2007", "voc2012", "mscoco", "nuswide", "vg500")
"""The datasets that `prepare` knows. Training takes any prepared folder."""


@dataclass
class RawSplit:
    """What a raw dataset says of one split: image names (relative to the data root) and the labels of each.

    missing: names that the raw lists have and the disk has not. ignore: labels left out when scoring, one set an image.
    boxes: where the labels are in each image; None where the raw dataset has no boxes.
    """

    names: list[str] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    ignore: list[list[str]] | None = None
    missing: list[str] = field(default_factory=list)
    boxes: list[ImageBoxes] | None = None

    def add(self, root: Path, image: str, labels: list[str]) -> bool:
        """Add an image where its photo lies under the data root, else count it as missing. True where it was added."""
        if not os.path.exists(root / image):
            self.missing.append(image)
            return False
        self.names.append(image)
        self.labels.append(labels)
        return True


def write_prepared(
    out: Path, labels: list[str], train: RawSplit, test: RawSplit, *, source: str, data_root: Path
) -> PreparedDataset:
    """Write the prepared form of a raw dataset into `out` and return it, read back.

    Files of ours are replaced one by one, each in one step; label.txt comes last, so that a folder with it is whole.
    Label embeddings that lie there already are kept when the labels are unchanged, and refused otherwise.
    """
    old = out / "label.txt"
    embeddings = sorted(path.name for path in out.glob("*.npy") if path.name != "ignore.npy")
    if embeddings and old.exists() and read_lines(old, "the list of labels") != labels:
        raise UserError(
            f"{out} holds label embeddings ({', '.join(embeddings)}) for other labels than this dataset has: "
            "choose another --out, or move them away"
        )
    index = {label: number for number, label in enumerate(labels)}
    out.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", train), ("test", test)):
        rows = zip(split.names, (sorted(set(present), key=index.__getitem__) for present in split.labels), strict=True)
        write_text(out / f"{name}.txt", "".join(f"{image}\t{','.join(present)}\n" for image, present in rows))
    if test.ignore is not None:
        mask = np.zeros((len(test.names), len(labels)), np.uint8)
        for row, ignored in enumerate(test.ignore):
            mask[row, [index[label] for label in ignored]] = 1
        write_array(out / "ignore.npy", mask)
    else:
        _set_aside(out / "ignore.npy")
    if test.boxes is not None and any(test.boxes):
        write_boxes(out / "test_boxes.jsonl", test.names, test.boxes)
    else:
        _set_aside(out / "test_boxes.jsonl")
    write_text(out / "label.txt", "".join(f"{label}\n" for label in labels))
    prepared = PreparedDataset(out, data_root)
    about = {"source": source, "data_root": str(Path(data_root).resolve())}
    missing = {"train": train.missing, "test": test.missing}
    write_json(out / "prepared.json", about | {"missing": missing} | prepared.summary())
    return prepared


def _set_aside(path: Path) -> None:
    """Rename another dataset's file, which must not be taken for this one's; nothing is deleted."""
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.previous"))
