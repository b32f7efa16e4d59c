"""The dataset on disk, in Pascal VOC's layout: pictures, XML annotations and lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import open_atomic
from .scenes import SceneObject, compose_scene

JPEG_QUALITY = 90

SMALLEST_IMAGE = 32

EDGES = ("xmin", "ymin", "xmax", "ymax")

HEAD = """\
<annotation>
\t<folder>mini</folder>
\t<filename>{name}</filename>
\t<source>
\t\t<database>mini</database>
\t\t<annotation>mini</annotation>
\t\t<image>drawn</image>
\t</source>
\t<size>
\t\t<width>{size}</width>
\t\t<height>{size}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
"""

OBJECT = """\
\t<object>
\t\t<name>{label}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>{truncated:d}</truncated>
\t\t<difficult>{difficult:d}</difficult>
\t\t<bndbox>
{edges}\t\t</bndbox>
\t</object>
"""


def format_annotation(name: str, image_size: int, objects: Sequence[SceneObject]) -> str:
    """The XML text that Pascal VOC 2007 would have for the picture file `name`."""
    text = HEAD.format(name=name, size=image_size)
    for item in objects:
        edges = "".join(f"\t\t\t<{edge}>{value}</{edge}>\n" for edge, value in zip(EDGES, item.box, strict=True))
        text += OBJECT.format(label=item.label, truncated=item.truncated, difficult=item.difficult, edges=edges)
    return text + "</annotation>\n"


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
    least = {"seed": (seed, 0), "train_images": (train_images, 1), "test_images": (test_images, 1)}
    for name, (value, smallest) in {**least, "image_size": (image_size, SMALLEST_IMAGE)}.items():
        if value < smallest:
            raise UserError(f"{name} is {value}; it must be {smallest} or more")
    if total > 999_999:
        raise UserError(f"train_images + test_images is {total}; names have six digits")
    refuse_foreign_root(root)
    pictures, annotations, lists = root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main"
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
        picture.save(pictures / f"{index:06d}.jpg", quality=JPEG_QUALITY, subsampling=0)
    for name, indices in members.items():
        with open_atomic(lists / name) as file:
            file.writelines(f"{index:06d}\n" for index in indices)
    return root


def refuse_foreign_root(root: Path) -> None:
    """Raise UserError where `root` holds a picture that this module did not make: the names would clash."""
    annotation = root / "Annotations" / "000001.xml"
    if annotation.exists():
        ours = b"<folder>mini</folder>" in annotation.read_bytes()
    else:
        ours = not any((root / "JPEGImages").glob("*.jpg"))
    if not ours:
        raise UserError(f"{root} holds pictures that are not mini's; choose an empty folder")
