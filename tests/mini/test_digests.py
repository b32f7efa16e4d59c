"""Protects every drawn byte: objects, clutter, backgrounds and a small dataset have the digests that are stored here.

A change of a table or of the code that draws it changes `digests.json`, and with it every number measured on `mini`.
Where that is meant: `python tests/mini/test_digests.py` writes the file anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, features

from sgre_lib.mini.annotations import make_mini
from sgre_lib.mini.objects import LABELS, draw_clutter, draw_object
from sgre_lib.mini.scenes import THEMES, compose_scene, paint_scenery

STORED = Path(__file__).with_name("digests.json")
SIZES = (9, 20, 32, 47.3, 70, 108)


def hash_pictures(draw: Callable[[float, np.random.Generator], Image.Image], count: int = 48) -> str:
    """SHA-256 over pictures of several sizes, each with what its generator gives next: no draw more or less."""
    digest = hashlib.sha256()
    for index in range(count):
        rng = np.random.default_rng((77, index))
        picture = draw(SIZES[index % len(SIZES)], rng)
        digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes() + rng.random(2).tobytes())
    return digest.hexdigest()


DRAWINGS: dict[str, Callable[[float, np.random.Generator], Image.Image]] = {
    **{label: lambda size, rng, label=label: draw_object(label, size, rng) for label in LABELS},
    "clutter": draw_clutter,
    "occluder": functools.partial(draw_clutter, occluding=True),
    **{name: lambda size, rng, name=name: paint_scenery(name, round(3 * size), rng) for name in THEMES},
    "scene": lambda size, rng: compose_scene(0, int(rng.integers(1300)), 64)[0],
}


def hash_dataset() -> str:
    """SHA-256 over names and bytes of all files of a small dataset."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        root = make_mini(folder, train_images=24, test_images=8, image_size=96, progress=False)
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def versions() -> Iterator[tuple[str, str]]:
    yield "Pillow", PIL.__version__.split(".")[0]
    yield "libjpeg-turbo", str(features.version("libjpeg_turbo"))


STORED_VALUES = json.loads(STORED.read_text()) if STORED.exists() else {"Pillow": None}
same_pillow = pytest.mark.skipif(
    STORED_VALUES["Pillow"] != dict(versions())["Pillow"],
    reason=f"the digests were made with Pillow {STORED_VALUES['Pillow']}; this is Pillow {PIL.__version__}",
)


@same_pillow
@pytest.mark.parametrize("name", DRAWINGS)
def test_drawn_pixels_are_the_stored_ones(name):
    assert hash_pictures(DRAWINGS[name]) == STORED_VALUES["drawings"][name]


@same_pillow
def test_a_small_dataset_has_the_stored_bytes():
    if STORED_VALUES["libjpeg-turbo"] != dict(versions())["libjpeg-turbo"]:
        pytest.skip(f"the JPEG files were made with libjpeg-turbo {STORED_VALUES['libjpeg-turbo']}")
    assert hash_dataset() == STORED_VALUES["dataset"]


if __name__ == "__main__":
    drawings = {name: hash_pictures(draw) for name, draw in DRAWINGS.items()}
    text = json.dumps({**dict(versions()), "dataset": hash_dataset(), "drawings": drawings}, indent=1)
    STORED.write_text(text + "\n")
