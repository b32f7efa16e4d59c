"""NUS-WIDE (Chua et al., 2009): 81 concepts over 269,648 Flickr photos, of which many are gone."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import read_lines
from .name_lists import read_image_lists, read_names
from .prepared import RawDataset


def read_nuswide(root: Path, *, progress: bool = True) -> RawDataset:
    """`root`/NUS-WIDE; image names start with `NUS-WIDE/Flickr/`.

    Labels are the lines of `Concepts81.txt`. Images stand in the order of the official lists; those without a label
    are left out, and are not looked for on the disk. Raises UserError, naming file and line, for a missing file, a
    label file with another number of lines than `Imagelist.txt`, a value that is neither 0 nor 1, a name that is
    listed twice, in both lists, or not in `Imagelist.txt`.
    """
    raw = root / "NUS-WIDE"
    if not (raw / "Flickr").is_dir():
        raise UserError(f"the photos of NUS-WIDE are missing: there is no folder {raw / 'Flickr'}")
    labels = read_names(raw / "Concepts81.txt", "concept", ",\t/\\")
    lists = raw / "ImageList"
    row_of = {name: row for row, name in enumerate(read_image_lists({"all": lists / "Imagelist.txt"})["all"])}
    files = [raw / "Groundtruth" / "AllLabels" / f"Labels_{label}.txt" for label in labels]
    bar = tqdm(files, desc="NUS-WIDE labels", unit="label", disable=not progress)
    truth = np.stack([read_truth(path, len(row_of)) for path in bar], axis=1)  # (images, L)
    dataset = RawDataset(labels)
    paths = {split: lists / f"{split.capitalize()}Imagelist.txt" for split in dataset.splits}
    for split, names in read_image_lists(paths, row_of, lists / "Imagelist.txt").items():
        for name in tqdm(names, desc=f"NUS-WIDE {split} photos", unit="image", disable=not progress):
            present = [labels[index] for index in np.flatnonzero(truth[row_of[name]])]
            if present:
                dataset.splits[split].add(root, f"NUS-WIDE/Flickr/{name}", present)
    return dataset


def read_truth(path: Path, count: int) -> np.ndarray:
    """One label file, a 0 or 1 a line, as (count,) bool; UserError for another value or another number of lines."""
    lines = [line.strip() for line in read_lines(path, "the label file")]
    if not set(lines) <= {"0", "1"}:
        number, line = next((number, line) for number, line in enumerate(lines, 1) if line not in ("0", "1"))
        raise UserError(f"{path} line {number}: {line!r} is neither 0 nor 1")
    if len(lines) != count:
        raise UserError(f"{path} has {len(lines)} lines, but Imagelist.txt names {count} images")
    return np.array(lines) == "1"
