"""Pascal VOC (2007, 2012) and everything laid out like it, `mini` among them."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tqdm import tqdm

from ..base.errors import UserError
from .boxes import ImageBoxes, add_box, read_photo_size
from .name_lists import read_image_lists
from .prepared import RawDataset

VOC_LABELS = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def read_objects(path: Path) -> list[tuple[str, bool, list[str | None]]]:
    """The objects of one annotation file: (label, difficult, box as written: xmin, ymin, xmax, ymax).

    Labels are lower-cased. Boxes are in pixels, 1-based and inclusive. Raises UserError where it is not VOC's XML.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"the annotation {path} cannot be read ({error})") from None
    objects = []
    for item in root.iter("object"):
        name = item.findtext("name", "").strip().lower()
        if not name:
            raise UserError(f"the annotation {path} has an object without a name")
        box = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        objects.append((name, item.findtext("difficult", "0").strip() == "1", box))
    return objects


def read_voc(raw: Path, train_list: str, test_list: str, labels: list[str], *, progress: bool = True) -> RawDataset:
    """A folder in VOC's layout; image names start with the folder's own name.

    An image has a label when at least one object of that class is not difficult. In the test split a class all of whose
    objects in an image are difficult is ignored there; an image with only such objects stays, without a label.
    A box counts as its object does: those of difficult objects are left out.
    Raises UserError for a missing folder, list or annotation, for an image in both lists, and for a class that is not
    one of the labels.
    """
    if not (raw / "Annotations").is_dir():
        raise UserError(f"{raw} is not in Pascal VOC's layout: it has no folder Annotations")
    dataset, lists = RawDataset(labels), raw / "ImageSets" / "Main"
    paths = {"train": lists / f"{train_list}.txt", "test": lists / f"{test_list}.txt"}
    for split, names in read_image_lists(paths).items():
        rows = dataset.splits[split]
        for name in tqdm(names, desc=f"{raw.name} {split}", unit="image", disable=not progress):
            image = f"{raw.name}/JPEGImages/{name}.jpg"
            if not (raw.parent / image).exists():
                rows.missing.append(image)
                continue
            annotation = raw / "Annotations" / f"{name}.xml"
            objects = read_objects(annotation)
            clear = {label for label, difficult, _ in objects if not difficult}
            unclear = {label for label, _, _ in objects} - clear
            if unknown := (clear | unclear) - set(labels):
                raise UserError(f"{annotation}: the class {min(unknown)!r} is not one of the labels")
            boxes: ImageBoxes = {}
            size = read_photo_size(raw.parent / image) if split == "test" else None
            for label, difficult, box in objects if size else ():
                if not difficult:
                    add_box(boxes, label, box, size, origin=1)  # pixels 1 to 3 end at the edge 3
            rows.add(raw.parent, image, sorted(clear), boxes)
            if split == "test":
                rows.ignore.append(sorted(unclear))
    return dataset
