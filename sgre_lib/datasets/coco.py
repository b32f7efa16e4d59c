"""MS-COCO 2014 (Lin et al., 2014), and everything laid out like it: image labels from the instances annotations."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson
from tqdm import tqdm

from ..base.errors import UserError
from .boxes import ImageBoxes, add_box
from .prepared import RawDataset

SPLIT_FOLDERS = {"train": "train2014", "test": "val2014"}
"""The test annotations of 2014 are not public, so the validation images test."""


def read_coco(root: Path, *, progress: bool = True) -> RawDataset:
    """`root`/MSCOCO; image names start with `MSCOCO/`.

    Labels are the categories in the order of the annotation files. An image has a label when any of its annotations,
    crowd or not, is of that category. Images stand in the order of the annotation file; those without an annotation
    are left out. Test images have the boxes of their annotations but not of crowds, which are regions of many objects.
    The annotation files are streamed: memory holds one annotation at a time, each image's labels and the test boxes.
    Raises UserError for a missing or broken file, for files whose categories differ, and for an annotation of an
    unknown image or category.
    """
    raw = root / "MSCOCO"
    files = {split: raw / "annotations" / f"instances_{folder}.json" for split, folder in SPLIT_FOLDERS.items()}
    # Reading takes half a minute: what is missing altogether is said before it.
    for split, folder in SPLIT_FOLDERS.items():
        if not files[split].is_file():
            raise UserError(f"the annotations of MS-COCO are missing: {files[split]}")
        if not (raw / folder).is_dir():
            raise UserError(f"the {split} photos of MS-COCO are missing: there is no folder {raw / folder}")
    categories: dict[str, dict[Any, str]] = {}  # split -> category id -> name
    for split, path in files.items():
        entries = stream_entries(path, "categories", ("id", "name"), ",\t\r\n", progress=progress)
        categories[split] = {entry["id"]: entry["name"].strip() for _, entry in entries}
        if not categories[split]:
            raise UserError(f"{path} has no categories: it is not a COCO instances file")
    if list(categories["train"].items()) != list(categories["test"].items()):
        raise UserError(f"{files['train']} and {files['test']} do not have the same categories in the same order")
    dataset = RawDataset(list(categories["train"].values()))
    for split, folder in SPLIT_FOLDERS.items():
        rows = read_image_labels(files[split], categories[split], with_boxes=split == "test", progress=progress)
        for file_name, labels, boxes in tqdm(rows, desc=f"MSCOCO {folder} photos", unit="image", disable=not progress):
            dataset.splits[split].add(root, f"MSCOCO/{folder}/{file_name}", labels, boxes)
    return dataset


def read_image_labels(
    path: Path, categories: dict[Any, str], *, with_boxes: bool, progress: bool
) -> list[tuple[str, list[str], ImageBoxes]]:
    """(file name, labels, boxes) of every image of an instances file that has an annotation, in the order of images.

    Labels are in the order of `categories`. Boxes are read only where asked for; an image without a width and a height
    has none. Raises UserError, naming the file and the image's or annotation's place.
    """
    file_names: dict[Any, str] = {}
    sizes: dict[Any, tuple[float, float]] = {}  # (width, height)
    for _, image in stream_entries(path, "images", ("id", "file_name"), "\t\r\n", progress=progress):
        file_names[image["id"]] = image["file_name"]
        if with_boxes and image.get("width") and image.get("height"):
            sizes[image["id"]] = (image["width"], image["height"])

    present: dict[Any, set] = {}  # image id -> its category ids
    boxes: dict[Any, ImageBoxes] = {}
    for where, annotation in stream_entries(path, "annotations", ("image_id", "category_id"), progress=progress):
        image_id, category_id = annotation["image_id"], annotation["category_id"]
        if image_id not in file_names or category_id not in categories:
            unknown = f"category {category_id}" if image_id in file_names else f"image {image_id}"
            raise UserError(f"{where} is of {unknown}, which the file does not have")
        # The published image labels count crowds, so `iscrowd` is looked at for boxes only.
        present.setdefault(image_id, set()).add(category_id)
        if image_id in sizes and not annotation.get("iscrowd"):
            of_image = boxes.setdefault(image_id, {})
            add_box(of_image, categories[category_id], annotation.get("bbox"), sizes[image_id], extent=True)
    if not present:
        raise UserError(f"{path} has no annotation")
    return [
        (file_name, [name for key, name in categories.items() if key in present[image_id]], boxes.get(image_id, {}))
        for image_id, file_name in file_names.items()
        if image_id in present
    ]


def stream_entries(
    path: Path, array: str, keys: tuple[str, str], forbidden: str = "", *, progress: bool
) -> Iterator[tuple[str, dict]]:
    """Each entry of an array of an instances file after its place in words; UserError where it lacks one of the keys.

    forbidden: where given, the keys are an id and a name, neither may come twice, and no name has such a character.
    """
    seen: set[tuple[str, Any]] = set()
    for number, entry in enumerate(stream_json(path, f"{array}.item", progress=progress), 1):
        where = f"{path}: entry {number} of {array}"
        try:
            values = {key: entry[key] for key in keys}
            repeated = [f"{key} {value!r}" for key, value in values.items() if (key, value) in seen]
        except (KeyError, TypeError):  # a list, say, is no id
            raise UserError(f"{where} has no {' or no '.join(keys)}: it is not a COCO instances file") from None
        if forbidden:
            name = values[keys[1]]
            if not isinstance(name, str) or not name.strip() or set(name) & set(forbidden):
                raise UserError(f"{where} has the {keys[1]} {name!r}, which no list can hold")
            if repeated:
                raise UserError(f"{where} has the {repeated[0]}, as an earlier one")
            seen.update(values.items())
        yield where, entry


def stream_json(path: Path, prefix: str, *, progress: bool = True) -> Iterator[Any]:
    """Yield the values at `prefix` of a JSON file one at a time; memory holds one of them, whatever the file's size.

    prefix: ijson's notation, where `item` is any element of an array: `annotations.item` yields every element of the
    array at the top-level key `annotations`, `item` those of a top-level array. A prefix that does not occur yields
    nothing. Raises UserError where the file is missing, cut off or not JSON. Keys of one file may stand in any order,
    so each prefix is a pass of its own: on 160 MB of annotations 3 s and 12 MB, where `json.load` takes 9 s, 1,100 MB.
    """
    look = {"desc": f"{path.name} {prefix}", "unit": "B", "unit_scale": True, "disable": not progress}
    try:
        with open(path, "rb") as file, tqdm(total=os.path.getsize(path), **look) as bar:
            for value in ijson.items(file, prefix, use_float=True):
                yield value
                bar.update(file.tell() - bar.n)
            bar.update(file.tell() - bar.n)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ijson.JSONError, OverflowError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not whole, valid JSON ({error})") from None
