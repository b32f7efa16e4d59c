"""VG500: Visual Genome (Krishna et al., 2017) with the 500 labels and the partition of SSGRL (Chen et al., 2019).

The partition numbers its labels and does not name them. The names are recovered from Visual Genome's own objects: the
name of a label is the object name that is on the same images.
"""

import functools
import json
import os
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import csv_text
from .boxes import add_box, read_photo_size
from .coco import stream_json
from .name_lists import read_image_lists
from .prepared import SPLITS, RawDataset

LABEL_COUNT = 500

PHOTO_FOLDERS = ("VG_100K", "VG_100K_2")

AGREEMENT_FLOOR = 0.5
"""The smallest agreement of a recovered name: below it, more images contradict the name than bear it out."""

CANDIDATES = 10
"""Names kept for each label: enough for another label to take the best ones."""


class LabelAgreement(NamedTuple):
    """How well a recovered name agrees with its label index.

    agreement: the Jaccard index of two sets of images, 0..1: images_both / (images_index + images_name - images_both).
    Counted are those of the partition with the label index, with an object of that name, and with both. runner_up: the
    next best name, and its agreement ("" and 0.0 where there is none).
    """

    index: int
    name: str
    agreement: float
    images_index: int
    images_name: int
    images_both: int
    runner_up: str = ""
    runner_up_agreement: float = 0.0


def read_vg500(root: Path, *, agreement_floor: float = AGREEMENT_FLOOR, progress: bool = True) -> RawDataset:
    """`root`/VisualGenome; image names start with `VisualGenome/VG_100K`.

    The labels' names are recovered from `objects.json` (see `recover_names`), their agreements are its file
    `label_agreement.csv`. A listed image keeps its place even without a label. An image that lies in both photo folders
    is taken from VG_100K. Test images have the boxes of the objects one of whose names is a label that the image has;
    none where the photo's size cannot be read.
    Raises UserError for a missing or broken file, for a listed image that the label indices do not have, and where a
    name cannot be recovered with at least `agreement_floor`.
    """
    raw = root / "VisualGenome"
    partition, objects = raw / "ssgrl_partition", raw / "objects.json"
    if not objects.is_file():
        raise UserError(f"the objects of Visual Genome, which name VG500's labels, are missing: {objects}")
    if not any((raw / folder).is_dir() for folder in PHOTO_FOLDERS):
        folders = " nor ".join(PHOTO_FOLDERS)
        raise UserError(f"the photos of Visual Genome are missing: {raw} has neither folder {folders}")
    index_path = partition / "vg_category_500_labels_index.json"
    indices = read_label_indices(index_path)
    lists = read_image_lists({s: partition / f"{s}_list_500.txt" for s in SPLITS}, indices, index_path)
    agreements = recover_names(objects, indices, agreement_floor=agreement_floor, progress=progress)
    worst = min(agreements, key=lambda label: label.agreement)
    median = np.median([label.agreement for label in agreements])
    found = f"median {median:.3f}, lowest {worst.agreement:.3f} ({worst.name}, index {worst.index})"
    what = f"recovered {len(agreements)} label names from objects.json: agreement (Jaccard index of the image sets)"
    print(what, found, file=sys.stderr)
    table = csv_text(LabelAgreement._fields, agreements, digits=4)
    dataset = RawDataset([label.name for label in agreements], files={"label_agreement.csv": table.encode()})
    for split, names in lists.items():
        for name in tqdm(names, desc=f"VG500 {split} photos", unit="image", disable=not progress):
            images = [f"VisualGenome/{folder}/{name}" for folder in PHOTO_FOLDERS]
            image = next((image for image in images if os.path.exists(root / image)), f"VisualGenome/{name}")
            dataset.splits[split].add(root, image, [dataset.labels[index] for index in indices[name]])
    # Streamed a second time, since the labels' names come of the first. The boxes are in pixels of the photo.
    test = dataset.splits["test"]
    for row, things in stream_objects(objects, [Path(name).name for name in test.names], progress=progress):
        size = read_photo_size(root / test.names[row])
        for names, thing in things if size else ():
            for label in [label for label in test.labels[row] if label in names]:
                add_box(test.boxes[row], label, [thing.get(key) for key in "xywh"], size, extent=True)
    return dataset


def read_label_indices(path: Path) -> dict[str, list[int]]:
    """Image file name -> its label indices, sorted, each in 0..499; UserError, naming the image, for anything else."""
    try:
        indices = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the label indices of VG500 cannot be read: {path} ({error})") from None
    if not isinstance(indices, dict) or not indices:
        raise UserError(f"{path} does not map image names to label indices")
    for name, present in indices.items():
        if not isinstance(present, list):
            raise UserError(f"{path}: the label indices of {name} are not a list")
        for index in present:
            if type(index) is not int or not 0 <= index < LABEL_COUNT:
                raise UserError(f"{path}: {name} has the label index {index!r}, which is not in 0..{LABEL_COUNT - 1}")
        indices[name] = sorted(set(present))
    return indices


def recover_names(
    objects: Path, indices: dict[str, list[int]], *, agreement_floor: float = AGREEMENT_FLOOR, progress: bool = True
) -> list[LabelAgreement]:
    """The object name of each label index, 0 to the highest that occurs, with its agreement.

    objects: Visual Genome's `objects.json`, streamed once. indices: image file name -> label indices; an image's file
    name is `<image_id>.jpg`. Names are compared in lower case with single spaces. The pairs (label, name) are taken in
    order of falling agreement, each label and each name once, so that of two labels with the same best name the one
    that agrees better gets it; equal agreements go to the lower index and the alphabetically first name.
    Raises UserError for an index without an image, and, naming the worst labels, for an agreement below
    `agreement_floor`.
    """
    names, image_rows, name_ids = _collect_names(objects, indices, progress)
    label_rows = np.repeat(np.arange(len(indices)), [len(present) for present in indices.values()])
    label_ids = np.fromiter((index for present in indices.values() for index in present), np.intp)
    images_index, images_name = np.bincount(label_ids, minlength=1), np.bincount(name_ids, minlength=len(names))
    if not images_index.all():
        raise UserError(f"VG500's label index {images_index.argmin()} is on no image, so its name cannot be recovered")
    candidates = []
    for index, count in enumerate(tqdm(images_index.tolist(), desc="VG500 names", unit="label", disable=not progress)):
        member = np.zeros(len(indices), bool)
        member[label_rows[label_ids == index]] = True
        both = np.bincount(name_ids[member[image_rows]], minlength=len(names))
        agreement = both / (count + images_name - both)
        best = np.argpartition(-agreement, CANDIDATES)[:CANDIDATES] if len(names) > CANDIDATES else range(len(names))
        # As tuples that sort in the order of taking.
        candidates += [(-agreement[i], index, names[i], int(images_name[i]), int(both[i])) for i in best if both[i]]
    result = [LabelAgreement(index, "", 0.0, count, 0, 0) for index, count in enumerate(images_index.tolist())]
    taken: set[str] = set()
    for falling, index, name, images, both in sorted(candidates):
        label, agreement = result[index], -float(falling)
        if not label.name and name not in taken:
            result[index] = label._replace(name=name, agreement=agreement, images_name=images, images_both=both)
            taken.add(name)
        elif not label.runner_up:
            result[index] = label._replace(runner_up=name, runner_up_agreement=agreement)
    low = sorted((label for label in result if label.agreement < agreement_floor), key=lambda label: label.agreement)
    if low:
        worst = ", ".join(f"index {one.index} ({one.name or 'no name left'}) {one.agreement:.3f}" for one in low[:5])
        raise UserError(
            f"{objects}: {len(low)} of {len(result)} labels agree with no object name to {agreement_floor} (Jaccard "
            f"index of the image sets), the worst: {worst}; are the objects and the partition of the same release?"
        )
    return result


def _collect_names(objects: Path, files: Iterable[str], progress: bool) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct object names on the images, and for each name of each image the image's row and the name's number.

    A name with a comma is none: as a label it could not be told from two in a list.
    """
    numbers: dict[str, int] = {}
    image_rows, name_ids = array("i"), array("i")
    for row, things in stream_objects(objects, files, progress=progress):
        found = dict.fromkeys(name for names, _ in things for name in names if name and "," not in name)
        name_ids.extend(numbers.setdefault(name, len(numbers)) for name in found)
        image_rows.extend([row] * len(found))
    if not numbers:
        raise UserError(f"{objects} names no object on the images of the partition")
    return list(numbers), np.frombuffer(image_rows, np.intc), np.frombuffer(name_ids, np.intc)


def stream_objects(
    objects: Path, files: Iterable[str], *, progress: bool = True
) -> Iterator[tuple[int, list[tuple[list[str], dict]]]]:
    """For each image of `objects.json` that is one of the files: its place there, and its objects with their names."""
    rows = {name: row for row, name in enumerate(files)}
    read = bytearray(len(rows))
    for place, image in enumerate(stream_json(objects, "item", progress=progress), 1):
        try:
            row = rows.get(f"{image['image_id'] if 'image_id' in image else image['id']}.jpg")
            if row is None:
                continue
            things = [([plain_name(name) for name in thing["names"]], thing) for thing in image["objects"]]
        except (KeyError, TypeError):
            raise UserError(f"{objects}: entry {place} is not an image_id and objects with names") from None
        if read[row]:
            raise UserError(f"{objects}: entry {place} is of an image that is there already")
        read[row] = 1
        yield row, things


@functools.cache  # there are far fewer names than objects
def plain_name(written: object) -> str:
    """An object's name as names are compared: in lower case, with single spaces."""
    return " ".join(str(written).lower().split())
