"""Boxes: where in a test photo a label's objects are, as fractions of its width and height.

Fractions survive the resize that ignores a photo's shape. `test_boxes.jsonl` in a prepared folder has a line an image
that has boxes, `{"image": <as in test.txt>, "boxes": {<label>: [[x0, y0, x1, y1], ...], ...}}`: x to the right, y down,
0..1, rounded to a ten-thousandth. They only measure heatmaps; no training looks at them.
"""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..base.errors import UserError
from ..base.files import open_atomic, read_lines

ImageBoxes = dict[str, array]
"""Label -> x0, y0, x1, y1 of its first box, of its second, ...: flat, so that hundreds of thousands stay small."""


def read_photo_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from a photo's header; None where it cannot be read, which training and `--check` report."""
    try:
        with Image.open(path) as photo:
            return photo.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def add_box(
    boxes: ImageBoxes, label: str, numbers: object, size: tuple[float, float], *, origin: int = 0, extent: bool = False
) -> None:
    """Add a box given in pixels (left, top, right, bottom edge; 0 is the photo's own edge) to an image's boxes.

    size: (width, height) of the photo. origin: the number that the box has for the photo's left and upper edge.
    extent: right and bottom are given as width and height. The box is cut at the photo's edge; one that is not four
    numbers, or of which nothing is left, is left out, since labels do not need it.
    """
    try:
        corners = np.array(numbers, np.float64)
        if corners.shape != (4,):
            return
        corners[:2] -= origin
        if extent:
            corners[2:] += corners[:2]
        fractions = corners / np.array([*size, *size], np.float64)
    except (TypeError, ValueError):
        return
    x0, y0, x1, y1 = np.round(fractions.clip(0, 1), 4).tolist()
    if np.isfinite(fractions).all() and x0 < x1 and y0 < y1:
        boxes.setdefault(label, array("d")).extend((x0, y0, x1, y1))


def write_boxes(path: Path, names: Sequence[str], boxes: Sequence[ImageBoxes]) -> None:
    """Write a split's boxes, a line for each image that has some. names, boxes: in the order of the split's list."""
    with open_atomic(path) as file:
        for name, of_image in zip(names, boxes, strict=True):
            if of_image:
                corners = {label: np.reshape(flat, (-1, 4)).tolist() for label, flat in of_image.items()}
                line = json.dumps({"image": name, "boxes": corners}, ensure_ascii=False, separators=(",", ":"))
                file.write(f"{line}\n")


def read_boxes(path: Path, names: Sequence[str], labels: Sequence[str]) -> list[dict[int, np.ndarray]]:
    """The boxes of each image of a list, in its order: label index -> (n, 4) float64. An image without a line has none.

    Raises UserError, naming file and line, for what is not such a line, for an image that the list does not have or a
    line before had, for an unknown label, and for a box that is not 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1.
    """
    index = {label: number for number, label in enumerate(labels)}
    known, by_name = set(names), {}
    for number, text in enumerate(read_lines(path, "the file of boxes"), 1):
        where = f"{path} line {number}"
        try:
            line = json.loads(text)
            name, of_image = line["image"], dict(line["boxes"])
            unlisted, twice = name not in known, name in by_name
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{where} is not {{"image": ..., "boxes": {{label: [[x0, y0, x1, y1], ...]}}}}') from None
        if unlisted or twice:
            raise UserError(f"{where}: the image {name} is {'there twice' if twice else 'not in the list of images'}")
        by_name[name] = {}
        for label, corners in of_image.items():
            if label not in index:
                raise UserError(f"{where}: the label {label!r} is not in label.txt")
            try:
                of_label = np.asarray(corners, np.float64)
                x0, y0, x1, y1 = of_label.T
                whole = ((x0 >= 0) & (x0 < x1) & (x1 <= 1) & (y0 >= 0) & (y0 < y1) & (y1 <= 1)).all()
            except (TypeError, ValueError):
                whole = False
            if not whole or of_label.ndim != 2:
                raise UserError(f"{where}: {label} has a box that is not four fractions x0 < x1, y0 < y1 in 0..1")
            by_name[name][index[label]] = of_label
    return [by_name.get(name, {}) for name in names]
