"""Pascal VOC (2007, 2012) and everything laid out like it, `mini` among them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import read_lines
from .boxes import ImageBoxes, add_box, read_photo_size
from .prepared import RawSplit

VOC_LABELS = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def read_objects(path: Path) -> list[tuple[str, bool, tuple[float, float, float, float]]]:
    """The objects of one annotation file: (label, difficult, (xmin, ymin, xmax, ymax) in pixels, 1-based, inclusive).

    Labels are lower-cased. A box that is absent or not four numbers is (nan, nan, nan, nan): labels do not need it.
    Raises UserError where the file is not VOC's XML.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"the annotation {path} cannot be read ({error})") from None
    objects = []
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip().lower()
        if not name:
            raise UserError(f"the annotation {path} has an object without a name")
        box = item.find("bndbox")
        try:
            corners = tuple(float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        except (AttributeError, TypeError, ValueError):
            corners = (float("nan"),) * 4
        objects.append((name, (item.findtext("difficult") or "0").strip() == "1", corners))
    return objects


def read_voc(
    raw: Path, train_list: str, test_list: str, *, labels: list[str] | None = None, progress: bool = True
) -> tuple[list[str], RawSplit, RawSplit]:
    """Labels, training and test split of a folder in VOC's layout; image names start with the folder's own name.

    An image has a label when at least one object of that class is not difficult. In the test split a class all of whose
    objects in an image are difficult is ignored there; an image with only such objects stays, without a label.
    A box counts as its object does: those of difficult objects are left out.
    labels: the expected ones (an unknown class is then an error); None: all classes seen, sorted by name.
    Raises UserError for a missing folder, list or annotation, for an image in both lists, and for an unknown class.
    """
    if not (raw / "Annotations").is_dir():
        raise UserError(f"{raw} is not in Pascal VOC's layout: it has no folder Annotations")
    ids = {split: _read_ids(raw, name) for split, name in (("train", train_list), ("test", test_list))}
    both = set(ids["train"]) & set(ids["test"])
    if both:
        raise UserError(f"{raw}: image {min(both)} is in both {train_list}.txt and {test_list}.txt ({len(both)} such)")
    splits, seen = {}, set()
    for split, names in ids.items():
        result = RawSplit(ignore=[], boxes=[]) if split == "test" else RawSplit()
        for name in tqdm(names, desc=f"{raw.name} {split}", unit="image", disable=not progress):
            image = f"{raw.name}/JPEGImages/{name}.jpg"
            if not (raw.parent / image).exists():
                result.missing.append(image)
                continue
            objects = read_objects(raw / "Annotations" / f"{name}.xml")
            clear = {label for label, difficult, _ in objects if not difficult}
            unclear = {label for label, _, _ in objects} - clear
            unknown = (clear | unclear) - set(labels) if labels else set()
            if unknown:
                where = f"{raw / 'Annotations' / name}.xml"
                raise UserError(f"{where}: the class {min(unknown)!r} is not one of the labels")
            seen |= clear | unclear
            result.names.append(image)
            result.labels.append(sorted(clear))
            if result.ignore is not None:
                result.ignore.append(sorted(unclear))
                result.boxes.append(_clear_boxes(objects, raw.parent / image))
        splits[split] = result
    return labels or sorted(seen), splits["train"], splits["test"]


def _clear_boxes(objects: list[tuple[str, bool, tuple]], photo: Path) -> ImageBoxes:
    """The boxes of the objects that are not difficult."""
    boxes: ImageBoxes = {}
    size = read_photo_size(photo)
    for label, difficult, (xmin, ymin, xmax, ymax) in objects if size else ():
        if not difficult:
            add_box(boxes, label, (xmin - 1, ymin - 1, xmax, ymax), size)  # pixels 1 to 3 end at the edge 3
    return boxes


def _read_ids(raw: Path, name: str) -> list[str]:
    path = raw / "ImageSets" / "Main" / f"{name}.txt"
    ids = [line.split()[0] for line in read_lines(path, "the image list") if line.strip()]
    if not ids:
        raise UserError(f"{path} names no image")
    if len(set(ids)) != len(ids):
        raise UserError(f"{path} names an image twice")
    return ids
