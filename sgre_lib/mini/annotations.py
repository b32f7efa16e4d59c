"""The dataset on disk, in Pascal VOC's layout: pictures, XML annotations and lists."""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import open_atomic
from .scenes import SceneObject, compose_scene

EDGES = ("xmin", "ymin", "xmax", "ymax")


def format_annotation(name: str, image_size: int, objects: Sequence[SceneObject]) -> str:
    """The XML text that Pascal VOC 2007 would have for the picture file `name`."""
    source = {"database": "mini", "annotation": "mini", "image": "drawn"}
    size = {"width": image_size, "height": image_size, "depth": 3}
    parts = {"folder": "mini", "filename": name, "source": source, "size": size, "segmented": 0}
    root = _make_element("annotation", parts)
    for item in objects:
        flags = {"truncated": int(item.truncated), "difficult": int(item.difficult)}
        box = dict(zip(EDGES, item.box, strict=True))
        root.append(_make_element("object", {"name": item.label, "pose": "Unspecified", **flags, "bndbox": box}))
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _make_element(tag: str, content: dict | str | int) -> ElementTree.Element:
    element = ElementTree.Element(tag)
    if isinstance(content, dict):
        element.extend(_make_element(*part) for part in content.items())
    else:
        element.text = str(content)
    return element


def make_mini(
    root: str | os.PathLike,
    *,
    seed: int = 0,
    train_images: int = 1000,
    test_images: int = 300,
    image_size: int = 128,
    progress: bool = True,
) -> Path:
    """Write the dataset under `root` in Pascal VOC's layout and return `root`.

    Pictures are `JPEGImages/000001.jpg` and on, RGB, `image_size` pixels square; the first `train_images` of them are
    listed in `ImageSets/Main/trainval.txt`, the next `test_images` in `test.txt`. Picture k and its annotation depend
    on `seed`, k and `image_size` alone, and are the same bytes wherever the same Pillow build draws them. The lists
    are taken away first and written last: where both are there, everything they name is complete. Files of an
    earlier, larger run stay but are in no list. Raises UserError for a number out of range, and for a `root` that
    holds somebody else's pictures.
    """
    root, total = Path(root), train_images + test_images
    limits = {"seed": (seed, 0), "train_images": (train_images, 1), "test_images": (test_images, 1)}
    for name, (value, least) in (limits | {"image_size": (image_size, 32)}).items():
        if value < least:
            raise UserError(f"{name} is {value}; it must be {least} or more")
    if total > 999_999:
        raise UserError(f"train_images + test_images is {total}; names have six digits")
    pictures, annotations, lists = root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main"
    first = annotations / "000001.xml"
    ours = b"<folder>mini</folder>" in first.read_bytes() if first.exists() else not any(pictures.glob("*.jpg"))
    if not ours:  # the names would clash
        raise UserError(f"{root} holds pictures that are not mini's; choose an empty folder")
    for folder in (pictures, annotations, lists):
        folder.mkdir(parents=True, exist_ok=True)
    members = {"trainval.txt": range(1, train_images + 1), "test.txt": range(train_images + 1, total + 1)}
    for name in members:
        (lists / name).unlink(missing_ok=True)
    for index in tqdm(range(1, total + 1), desc="mini", unit="image", disable=not progress):
        picture, objects = compose_scene(seed, index, image_size)
        # The annotation first: it is what tells a later run that the picture is ours.
        text = format_annotation(f"{index:06d}.jpg", image_size, objects)
        (annotations / f"{index:06d}.xml").write_bytes(text.encode())
        picture.save(pictures / f"{index:06d}.jpg", quality=90, subsampling=0)
    for name, indices in members.items():
        with open_atomic(lists / name) as file:
            file.writelines(f"{index:06d}\n" for index in indices)
    return root
