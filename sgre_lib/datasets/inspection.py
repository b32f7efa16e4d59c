"""What is wrong with a prepared dataset, all of it at once: lists, labels, mask and photos, down to the last pixel."""

import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm.contrib.concurrent import thread_map

from ..base.errors import UserError
from .prepared import SPLITS, PreparedDataset

EXPECTED_COUNTS = {
    "voc2007": (20, 5_011, 4_952),
    "mscoco": (80, 82_081, 40_137),
    "nuswide": (81, 125_449, 83_898),
    "vg500": (500, 82_904, 10_000),
}
"""Labels, training and test images of the published benchmarks, every photo being there."""


def count_deviation(source: str, labels: int, train: int, test: int) -> str | None:
    """One line that says how the counts differ from the published ones; None where they agree or none are published.

    source: a dataset's name. Subsets are legitimate, so this is something to say aloud, never an error.
    """
    expected = EXPECTED_COUNTS.get(source, (labels, train, test))
    if expected == (labels, train, test):
        return None
    published = "published are {:,}, {:,} and {:,}: results are not comparable with published ones".format(*expected)
    return f"{source} has {labels:,} labels, {train:,} training and {test:,} test images; {published}"


class Finding(NamedTuple):
    """What a `Report` takes. where: file, line and image."""

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
        """Add a finding; a file of the folder is named without the folder."""
        self.findings.append(Finding(severity, what, str(where).removeprefix(f"{self.folder}{os.sep}")))

    def text(self, limit: int = 10) -> str:
        """The findings by kind, errors first, at most `limit` places of each kind."""
        rows = ", ".join(f"{count:,} {split}" for split, count in self.images.items()) or "no"
        decoded = f"{self.decoded:,} photos decoded in full"
        lines = [f"{self.folder}: {rows} images, {self.labels:,} labels; {decoded}"]
        kinds: dict[tuple[str, str], list[str]] = {}
        order = ("error", "warning", "note")
        for severity, what, where in sorted(self.findings, key=lambda finding: order.index(finding.severity)):
            kinds.setdefault((severity, what), []).append(where)
        for (severity, what), places in kinds.items():
            lines.append(f"{severity}: {what} ({len(places):,})")
            lines += [f"    {place}" for place in places[:limit]]
            if len(places) > limit:
                lines.append(f"    ... and {len(places) - limit:,} more")
        errors = sum(finding.severity == "error" for finding in self.findings)
        lines.append("no error" if self.ok else f"{errors:,} error{'s' if errors > 1 else ''}")
        return "\n".join(lines)


def inspect(
    data: str | os.PathLike, *, data_root: str | os.PathLike | None = None, missing: str = "note", progress: bool = True
) -> Inspection:
    """Check every line, label and photo of a prepared folder and return all that was found, however much it is.

    data, data_root: as for training. missing: the severity of a photo that preparation left out.
    Errors: an unreadable or empty list, an unknown, empty or repeated label, a missing photo, a photo that is cut off
    or no image, a mask of the wrong shape, unreadable boxes. Warnings: an image listed twice, a photo in both splits
    (by its bytes), a label that no image has, counts or lists other than expected. Notes: photos that are not RGB
    (training converts them), images without a label, a photo twice in one split.
    Raises UserError only where the folder does not exist. Photos that decode with wrong colours are not noticed: JPEG
    has no checksum.
    """
    prepared = PreparedDataset(data, data_root)
    result = Inspection(prepared.folder)
    prepared.report = result.add
    rows = [row for split in SPLITS for row in _inspect_list(prepared, split, result)]
    try:
        _ = prepared.ignore  # reading checks it
    except UserError as error:
        result.add("error", "unreadable mask", error)
    if result.ok:  # otherwise the lists that boxes and fingerprint belong to may be unreadable
        try:
            prepared.boxes("test")
        except UserError as error:
            result.add("error", "unreadable boxes", error)
    if (prepared.folder / "prepared.json").exists():
        _inspect_record(prepared, missing, result)
    _inspect_photos(rows, result, progress)
    return result


def _inspect_list(prepared: PreparedDataset, split: str, result: Inspection) -> list[tuple[str, str, Path]]:
    """The rows of a list whose photo is there: the split, the place (file, line, image's name), the photo's file."""
    names, targets = prepared.read_list(split)
    result.labels, result.images[split] = len(prepared.labels), len(names)
    for label, images in zip(prepared.labels, targets.sum(0), strict=True):
        if names and not images:
            result.add("warning", f"label that no {split} image has", label)
    rows, first = [], {}
    for number, (name, present) in enumerate(zip(names, targets.any(1), strict=True), 1):
        if not name.strip():
            continue
        place, path = f"{split}.txt line {number}: {name}", prepared.find_photo(name)
        if path is None:
            result.add("error", "missing photo", f"{place} (neither in the folder nor in {prepared.data_root})")
        else:
            rows.append((split, place, path))
        if first.setdefault(name, number) != number:
            result.add("warning", "image that is listed twice", f"{split}.txt lines {first[name]} and {number}: {name}")
        if prepared.labels and not present:
            result.add("note", "image without a label", place)
    return rows


def _inspect_record(prepared: PreparedDataset, missing: str, result: Inspection) -> None:
    """Compare the folder with what preparation wrote into prepared.json."""
    path = prepared.folder / "prepared.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        source, recorded = str(record["source"]), record["fingerprint"]
        left_out = [f"{split}: {name}" for split in SPLITS for name in record["missing"][split]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        result.add("warning", "unreadable record of the preparation", f"{path.name} ({type(error).__name__}: {error})")
        return
    if deviation := count_deviation(source, result.labels, *result.images.values()):
        result.add("warning", "counts other than published", deviation)
    for name in left_out:
        result.add(missing, "photo that the raw lists have and the disk has not", name)
    if result.ok and prepared.fingerprint() != recorded:
        result.add("warning", "labels, lists or mask changed since the preparation", path.name)


def _inspect_photos(rows: list[tuple[str, str, Path]], result: Inspection, progress: bool) -> None:
    """Decode every photo once; find the same bytes in several places."""
    paths = sorted({path for *_, path in rows})
    bar = {"desc": f"inspect {result.folder.name}", "unit": "image", "disable": not progress}
    # Decoding and hashing leave the interpreter's lock, and reading waits for the disk.
    photos = thread_map(decode_photo, paths, max_workers=8, **bar)
    photo_of, told = dict(zip(paths, photos, strict=True)), set()
    first: dict[tuple[str, bytes], tuple[str, Path]] = {}  # the first row of a split with a photo of these bytes
    for split, place, path in rows:
        digest, problem = photo_of[path]
        if problem and path not in told:
            severity, what = ("note", "photo that is not RGB") if digest else ("error", "unreadable photo")
            result.add(severity, what, f"{place} ({problem})")
        told.add(path)
        earlier, same = first.setdefault((split, digest), (place, path)) if digest else (place, path)
        if same != path:  # the same file is an image listed twice
            result.add("note", "same photo twice in a split", f"{earlier} and {place}")
    result.decoded = sum(digest is not None for digest, _ in photos)
    for (split, digest), (place, _) in first.items():
        if split == "test" and ("train", digest) in first:
            result.add("warning", "photo in both splits", f"{first['train', digest][0]} and {place}")


def decode_photo(path: Path) -> tuple[bytes | None, str]:
    """Decode every pixel of a photo: its digest (None where that fails) and the problem, or a mode that is not RGB."""
    try:
        data = path.read_bytes()
        if not data:
            return None, "an empty file"
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise many kinds, and none may end the inspection
        return None, getattr(error, "strerror", None) or str(error) or type(error).__name__
    return hashlib.sha256(data).digest(), "" if image.mode == "RGB" else image.mode
