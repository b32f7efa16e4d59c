"""What is wrong with a prepared dataset, all of it at once: lists, labels, mask and photos, down to the last pixel."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import read_array, read_lines
from .prepared import SPLITS, PreparedDataset

EXPECTED_COUNTS = {
    "voc2007": (20, 5_011, 4_952),
    "mscoco": (80, 82_081, 40_137),
    "nuswide": (81, 125_449, 83_898),
    "vg500": (500, 82_904, 10_000),
}
"""Labels, training and test images of the published benchmarks, every photo being there."""

SEVERITIES = ("error", "warning", "note")

THREADS = 8  # decoding and hashing leave the interpreter's lock, and reading waits for the disk


def count_deviation(source: str, labels: int, train: int, test: int) -> str | None:
    """One line that says how the counts differ from the published ones; None where they agree or none are published.

    source: a dataset's name. Subsets are legitimate, so this is something to say aloud, never an error.
    """
    expected = EXPECTED_COUNTS.get(source, (labels, train, test))
    if expected == (labels, train, test):
        return None
    found = f"{source} has {labels:,} labels, {train:,} training and {test:,} test images"
    published = "published are {:,}, {:,} and {:,}".format(*expected)
    return f"{found}; {published}: results are not comparable with published ones"


class Finding(NamedTuple):
    """One thing that is not as it should be.

    severity: `error` (the dataset cannot be used as it is), `warning` (it can, but results may mislead) or `note`.
    what: the kind of finding, the same words for all of its kind. where: file, line and image.
    """

    severity: str
    what: str
    where: str


@dataclass
class Inspection:
    """All findings on one prepared folder. images: rows of each list. decoded: photos that decoded in full."""

    folder: Path
    labels: int = 0
    images: dict[str, int] = field(default_factory=dict)
    decoded: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True where no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def add(self, severity: str, what: str, where: object) -> None:
        self.findings.append(Finding(severity, what, str(where)))

    @contextlib.contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """A UserError in the block becomes an error of this kind, and ends no more than the block."""
        try:
            yield
        except UserError as error:
            self.add("error", what, error)

    def text(self, limit: int = 10) -> str:
        """The findings by kind, errors first, at most `limit` places of each kind."""
        rows = ", ".join(f"{count:,} {split}" for split, count in self.images.items()) or "no"
        decoded = f"{self.decoded:,} photos decoded in full"
        lines = [f"{self.folder}: {rows} images, {self.labels:,} labels; {decoded}"]
        kinds: dict[tuple[str, str], list[str]] = {}
        for severity, what, where in sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity)):
            kinds.setdefault((severity, what), []).append(where)
        for (severity, what), places in kinds.items():
            lines.append(f"{severity}: {what} ({len(places):,})")
            lines += [f"    {place}" for place in places[:limit]]
            if len(places) > limit:
                lines.append(f"    ... and {len(places) - limit:,} more")
        errors = sum(finding.severity == "error" for finding in self.findings)
        lines.append("no error" if self.ok else f"{errors:,} error{'s' if errors > 1 else ''}")
        return "\n".join(lines)


class Row(NamedTuple):
    """One image of a list. place: file name and line. path: where the photo is, or None."""

    split: str
    place: str
    name: str
    path: Path | None
    labels: list[str]


class Photo(NamedTuple):
    """What decoding a photo showed. problem: "" where it decoded in full; mode: Pillow's, "" where it did not."""

    digest: bytes
    mode: str
    problem: str


def inspect(
    data: str | os.PathLike, *, data_root: str | os.PathLike | None = None, progress: bool = True
) -> Inspection:
    """Check every line, label and photo of a prepared folder and return all that was found, however much it is.

    data: a dataset's name or the path of a prepared folder. data_root: as for training.
    Errors: an unreadable or empty list, an unknown, empty or repeated label, a missing photo, a photo that is cut off
    or no image, a mask of the wrong shape, unreadable boxes. Warnings: an image listed twice, a photo in both splits
    (by its bytes), a label that no image has, counts or lists other than expected. Notes: photos that are not RGB
    (training converts them), images without a label, a photo twice in one split.
    Raises UserError only where the folder does not exist. Photos that decode with wrong colours are not noticed: JPEG
    has no checksum.
    """
    prepared = PreparedDataset(data, data_root)
    result = Inspection(prepared.folder)
    labels = _inspect_labels(prepared.folder / "label.txt", result)
    rows = {split: _inspect_list(prepared, split, labels, result) for split in SPLITS}
    for split in SPLITS:
        seen = {label for row in rows[split] for label in row.labels}
        for label in labels if rows[split] else ():
            if label not in seen:
                result.add("warning", f"label that no {split} image has", label)
    if (prepared.folder / "ignore.npy").exists():
        _inspect_mask(prepared.folder / "ignore.npy", (len(rows["test"]), len(labels)), result)
    if (prepared.folder / "prepared.json").exists():
        _inspect_record(prepared, result)
    with result.noting("unreadable boxes"):
        if result.ok:  # otherwise the list that boxes belong to may be unreadable
            prepared.boxes("test")
    photos = _decode_all({row.path for split in SPLITS for row in rows[split] if row.path}, result, progress)
    _inspect_photos(rows, photos, result)
    return result


def _inspect_labels(path: Path, result: Inspection) -> list[str]:
    """The labels, the faulty ones among them, so that indices are line numbers."""
    labels = [line.strip() for line in _read_leniently(path, "the list of labels", result)]
    result.labels = len(labels)
    first: dict[str, int] = {}
    for number, label in enumerate(labels, 1):
        if not label:
            result.add("error", "empty label", f"{path.name} line {number}")
        elif set(label) & set(",\t"):
            result.add("error", "label with a comma or a tab", f"{path.name} line {number}: {label!r}")
        elif first.setdefault(label, number) != number:
            result.add("error", "label that is there twice", f"{path.name} lines {first[label]} and {number}: {label}")
    return labels


def _inspect_list(prepared: PreparedDataset, split: str, labels: list[str], result: Inspection) -> list[Row]:
    path = prepared.folder / f"{split}.txt"
    rows, first, known = [], {}, set(labels)
    for number, line in enumerate(_read_leniently(path, f"the list of {split} images", result), 1):
        place = f"{path.name} line {number}"
        name, _, rest = line.partition("\t")
        present = [label for label in (part.strip() for part in rest.split(",")) if label]
        for label in present:
            if labels and label not in known:
                result.add("error", "label that label.txt does not have", f"{place}: {label!r}")
        photo = prepared.find_photo(name) if name.strip() else None
        rows.append(Row(split, place, name, photo, present))
        if not name.strip():
            result.add("error", "line without an image path", place)
            continue
        if photo is None:
            nowhere = f"neither in the folder nor in {prepared.data_root}"
            result.add("error", "missing photo", f"{place}: {name} ({nowhere})")
        if first.setdefault(name, number) != number:
            result.add("warning", "image that is listed twice", f"{split}.txt lines {first[name]} and {number}: {name}")
        if not present:
            result.add("note", "image without a label", f"{place}: {name}")
    result.images[split] = len(rows)
    return rows


def _read_leniently(path: Path, what: str, result: Inspection) -> list[str]:
    lines: list[str] = []
    with result.noting("unreadable list"):
        lines = read_lines(path, what)
        if not lines:
            result.add("error", "empty list", path.name)
    return lines


def _inspect_mask(path: Path, expected: tuple[int, int], result: Inspection) -> None:
    with result.noting("unreadable mask"):
        mask = read_array(path)
        if mask.shape != expected:
            shapes = f"{path.name} is {mask.shape}, test.txt and label.txt ask for {expected}"
            result.add("error", "mask of the wrong shape", shapes)
        elif mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
            result.add("warning", "mask with values other than 0 and 1", path.name)


def _inspect_record(prepared: PreparedDataset, result: Inspection) -> None:
    """Compare the folder with what preparation wrote into prepared.json."""
    path = prepared.folder / "prepared.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        source, recorded, missing = record["source"], record["fingerprint"], record["missing"]
        left_out = {split: list(missing[split]) for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        result.add("warning", "unreadable record of the preparation", f"{path.name} ({type(error).__name__}: {error})")
        return
    deviation = count_deviation(str(source), result.labels, *(result.images[split] for split in SPLITS))
    if deviation:
        result.add("warning", "counts other than published", deviation)
    for split, names in left_out.items():
        for name in names:
            result.add("note", "photo that preparation left out as missing", f"{split}: {name}")
    with result.noting("unreadable list"):
        if result.ok and prepared.fingerprint() != recorded:  # after an error the lists may have no fingerprint
            result.add("warning", "labels, lists or mask changed since the preparation", path.name)


def _decode_all(paths: Iterable[Path], result: Inspection, progress: bool) -> dict[Path, Photo]:
    ordered = sorted(paths)
    with ThreadPool(THREADS) as pool:
        bar = {"desc": f"inspect {result.folder.name}", "unit": "image", "disable": not progress}
        photos = list(tqdm(pool.imap(decode_photo, ordered, chunksize=16), total=len(ordered), **bar))
    result.decoded = sum(not photo.problem for photo in photos)
    return dict(zip(ordered, photos, strict=True))


def decode_photo(path: Path) -> Photo:
    """Read a photo and decode every pixel of it; a problem is returned, not raised."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Photo(b"", "", f"cannot be read ({error.strerror or error})")
    digest = hashlib.sha256(data).digest()
    if not data:
        return Photo(digest, "", "an empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return Photo(digest, image.mode, "")
    except Exception as error:  # Pillow's decoders raise many kinds, and none may end the inspection
        return Photo(digest, "", str(error) or type(error).__name__)


def _inspect_photos(rows: dict[str, list[Row]], photos: dict[Path, Photo], result: Inspection) -> None:
    told: set[Path] = set()
    first: dict[str, dict[bytes, Row]] = {split: {} for split in SPLITS}  # split -> bytes of a photo -> its first row
    for row in (row for split in SPLITS for row in rows[split] if row.path is not None):
        photo = photos[row.path]
        if photo.problem and row.path not in told:
            result.add("error", "unreadable photo", f"{row.place}: {row.name}: {photo.problem}")
        elif photo.mode not in ("", "RGB") and row.path not in told:
            result.add("note", "photo that is not RGB", f"{row.place}: {row.name} ({photo.mode})")
        told.add(row.path)
        earlier = row if photo.problem else first[row.split].setdefault(photo.digest, row)
        if earlier.name != row.name:  # the same name is an image listed twice
            result.add("note", "same photo twice in a split", _name_both(earlier, row))
    for digest, row in first["test"].items():
        if digest in first["train"]:
            result.add("warning", "photo in both splits", _name_both(first["train"][digest], row))


def _name_both(one: Row, other: Row) -> str:
    return f"{one.place}: {one.name} and {other.place}: {other.name}"
