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

import contextlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import fingerprint, open_atomic, read_array, read_lines, write_array, write_json, write_text
from ..base.places import find_file, working_root
from .boxes import ImageBoxes, read_boxes, write_boxes
from .name_lists import Report, read_list_lines, read_names, refuse

SPLITS = ("train", "test")


def choose_data_root(given: str | os.PathLike | None = None, folder: Path | None = None) -> Path:
    """The folder of raw datasets: as given, else SGRE_DATA_ROOT, else what `folder` was made from, else `data/raw`."""
    chosen = given if given is not None else os.environ.get("SGRE_DATA_ROOT")
    if chosen:
        return Path(chosen).expanduser()
    if folder is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            recorded = Path(json.loads((folder / "prepared.json").read_text(encoding="utf-8"))["data_root"])
            if recorded.is_dir():
                return recorded
    return working_root() / "data" / "raw"


def prepared_folder(data: str | os.PathLike) -> Path:
    """The prepared folder that `data` names: a dataset's name stands for `data/<name>`, anything else is a path."""
    text = os.fspath(data)
    named = working_root() / "data" / text
    path = Path(text).expanduser()
    is_name = os.sep not in text and "/" not in text and text not in ("", ".", "..")
    if is_name and (named.is_dir() or not path.is_dir()):
        return named
    return find_file(path)


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
        self.report: Report = refuse  # `inspect` collects what is wrong instead
        self._lists: dict[str, tuple[list[str], np.ndarray]] = {}

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def labels(self) -> list[str]:
        return read_names(self.folder / "label.txt", "label", ",\t", self.report)

    def read_list(self, split: str) -> tuple[list[str], np.ndarray]:
        """Image names and targets (N, L) of `train` or `test`, without looking for the files."""
        if split in self._lists:
            return self._lists[split]
        path = self.folder / f"{split}.txt"
        index = {label: number for number, label in enumerate(self.labels)}
        lines = read_list_lines(path, f"the list of {split} images", self.report)
        names, targets = [], np.zeros((len(lines), len(self.labels)), np.uint8)
        for row, line in enumerate(lines):
            name, _, rest = line.partition("\t")
            names.append(name)
            if not name.strip():
                self.report("error", "line without an image path", f"{path} line {row + 1}")
            for label in filter(None, (part.strip() for part in rest.split(","))):
                if label in index:
                    targets[row, index[label]] = 1
                elif index:  # without any label there is one finding, not one for each label in the lists
                    self.report("error", "label that label.txt does not have", f"{path} line {row + 1}: {label!r}")
        self._lists[split] = names, targets
        return names, targets

    @cached_property
    def ignore(self) -> np.ndarray | None:
        """The mask of the test images, (N, L) uint8, or None where there is none."""
        path = self.folder / "ignore.npy"
        if not path.exists():
            return None
        mask, expected = read_array(path), self.read_list("test")[1].shape
        if mask.shape != expected:
            shapes = f"{path} has shape {mask.shape}, but test.txt and label.txt ask for {expected}"
            self.report("error", "mask of the wrong shape", shapes)
        elif mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
            self.report("warning", "mask with values other than 0 and 1", path)
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
            raise UserError(
                f"{self.folder / name}.txt: {missing[0]}, one of {len(missing)} such, is neither at "
                f"{self.folder / missing[0]} nor at {self.data_root / missing[0]} (set --data-root or SGRE_DATA_ROOT)"
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

    boxes: where the labels are in each image. ignore: labels left out when scoring, one list an image; empty where the
    raw dataset has no difficult objects. missing: names that the raw lists have and the disk has not.
    """

    names: list[str] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    boxes: list[ImageBoxes] = field(default_factory=list)
    ignore: list[list[str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, root: Path, image: str, labels: list[str], boxes: ImageBoxes | None = None) -> None:
        """Add an image where its photo lies under the data root, else count it as missing."""
        if os.path.exists(root / image):
            self.names.append(image)
            self.labels.append(labels)
            self.boxes.append(boxes or {})
        else:
            self.missing.append(image)


@dataclass
class RawDataset:
    """What a reader makes of a raw dataset. files: name -> bytes of what else belongs into the prepared folder."""

    labels: list[str]
    splits: dict[str, RawSplit] = field(default_factory=lambda: {split: RawSplit() for split in SPLITS})
    files: dict[str, bytes] = field(default_factory=dict)


def write_prepared(out: Path, raw: RawDataset, *, source: str, data_root: Path) -> PreparedDataset:
    """Write the prepared form of a raw dataset into `out` and return it, read back.

    Files of ours are replaced one by one, each in one step; label.txt comes last, so that a folder with it is whole.
    Label embeddings that lie there already are kept when the labels are unchanged, and refused otherwise. A mask or
    boxes of another dataset, which must not be taken for this one's, get the ending `.previous`.
    """
    labels, test, old = raw.labels, raw.splits["test"], out / "label.txt"
    embeddings = sorted(path.name for path in out.glob("*.npy") if path.name != "ignore.npy")
    if embeddings and old.exists() and read_lines(old, "the list of labels") != labels:
        raise UserError(
            f"{out} holds label embeddings ({', '.join(embeddings)}) for other labels than this dataset has: "
            "choose another --out, or move them away"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, content in raw.files.items():
        with open_atomic(out / name, "wb") as file:
            file.write(content)
    index = {label: number for number, label in enumerate(labels)}
    for name, split in raw.splits.items():
        rows = zip(split.names, (sorted(set(present), key=index.__getitem__) for present in split.labels), strict=True)
        write_text(out / f"{name}.txt", "".join(f"{image}\t{','.join(present)}\n" for image, present in rows))
    for path, there in ((out / "ignore.npy", test.ignore), (out / "test_boxes.jsonl", any(test.boxes))):
        if path.exists() and not there:
            os.replace(path, path.with_name(f"{path.name}.previous"))
    if test.ignore:
        mask = [[label in ignored for label in labels] for ignored in test.ignore]
        write_array(out / "ignore.npy", np.array(mask, np.uint8))
    if any(test.boxes):
        write_boxes(out / "test_boxes.jsonl", test.names, test.boxes)
    write_text(old, "".join(f"{label}\n" for label in labels))
    prepared = PreparedDataset(out, data_root)
    missing = {name: split.missing for name, split in raw.splits.items()}
    about = {"source": source, "data_root": str(Path(data_root).resolve()), "missing": missing}
    write_json(out / "prepared.json", about | prepared.summary())
    return prepared
