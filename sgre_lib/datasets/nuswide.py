"""NUS-WIDE (Chua et al., 2009): 81 concepts over 269,648 Flickr photos, of which many are gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import read_lines
from .image_lists import check_names, read_image_list, read_split_lists
from .prepared import RawSplit


def read_nuswide(root: Path, *, progress: bool = True) -> tuple[list[str], RawSplit, RawSplit]:
    """Labels, training and test split of `root`/NUS-WIDE; image names start with `NUS-WIDE/Flickr/`.

    Labels are the lines of `Concepts81.txt`. Images stand in the order of the official lists; those without a label
    are left out, and are not looked for on the disk. Raises UserError, naming file and line, for a missing file, a
    label file with another number of lines than `Imagelist.txt`, a value that is neither 0 nor 1, a name that is
    listed twice, in both lists, or not in `Imagelist.txt`.
    """
    raw = root / "NUS-WIDE"
    if not (raw / "Flickr").is_dir():
        raise UserError(f"the photos of NUS-WIDE are missing: there is no folder {raw / 'Flickr'}")
    labels = read_concepts(raw / "Concepts81.txt")
    lists = raw / "ImageList"
    row_of = {name: row for row, name in enumerate(read_image_list(lists / "Imagelist.txt"))}
    truth = np.empty((len(labels), len(row_of)), bool)
    for index, label in enumerate(tqdm(labels, desc="NUS-WIDE labels", unit="label", disable=not progress)):
        truth[index] = read_truth(raw / "Groundtruth" / "AllLabels" / f"Labels_{label}.txt", len(row_of))
    splits: dict[str, RawSplit] = {}
    paths = {split: lists / f"{split.capitalize()}Imagelist.txt" for split in ("train", "test")}
    for split, names in read_split_lists(paths, row_of, lists / "Imagelist.txt").items():
        splits[split] = RawSplit()
        columns = truth.T[[row_of[name] for name in names]]  # (images of the split, L)
        bar = tqdm(names, desc=f"NUS-WIDE {split} photos", unit="image", disable=not progress)
        for name, present in zip(bar, columns, strict=True):
            if present.any():
                of_image = [labels[index] for index in np.flatnonzero(present)]
                splits[split].add(root, f"NUS-WIDE/Flickr/{name}", of_image)
    return labels, splits["train"], splits["test"]


def read_concepts(path: Path) -> list[str]:
    """The concepts in the order of the file; UserError, naming the line, for an empty, repeated or unusable one."""
    concepts = [line.strip() for line in read_lines(path, "the list of concepts")]
    return check_names(path, concepts, ",\t/\\", "concept", "a concept's name")


def read_truth(path: Path, count: int) -> np.ndarray:
    """One label file, a 0 or 1 a line, as (count,) bool; UserError for another value or another number of lines."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"the label file is missing: {path}") from None
    except OSError as error:
        raise UserError(f"the label file cannot be read: {path} ({error.strerror or error})") from None
    # As the files come, a line is a digit and a line end once blanks are gone. Only what is not is read line by line.
    compact = np.frombuffer(data.rstrip().translate(None, b" \t\r") + b"\n", np.uint8)
    digits, ends = compact[::2], compact[1::2]
    if len(compact) == 2 * count and (ends == ord("\n")).all() and np.isin(digits, (ord("0"), ord("1"))).all():
        return digits == ord("1")
    lines = [line.strip() for line in data.rstrip().split(b"\n")]
    for number, line in enumerate(lines, 1):
        if line not in (b"0", b"1"):
            raise UserError(f"{path} line {number}: {line.decode(errors='replace')!r} is neither 0 nor 1")
    raise UserError(f"{path} has {len(lines)} lines, but Imagelist.txt names {count} images")
