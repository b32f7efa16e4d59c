"""RandAugment as the release has it: two of fifteen operations, each with probability one half."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)
CUTOUT_COLOUR = (125, 122, 113)
STEPS = 10

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]
"""(image, magnitude, generator) -> image; the generator draws what is left to chance: a sign, a place."""


def _sign(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() < 0.5 else value


def _map_affine(place: int, side: str | None = None) -> Operation:
    """The share, of a side of the image where one is named, at `place` in the rows of the identity: (x, y, 1) -> (x, y)."""
    resample = Image.Resampling.NEAREST if side else Image.Resampling.BICUBIC

    def operate(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
        matrix = [1, 0, 0, 0, 1, 0]
        matrix[place] = _sign(share, rng) * (getattr(image, side) if side else 1)
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=GREY)

    return operate


def _enhance(kind: type) -> Operation:
    return lambda image, change, rng: kind(image).enhance(1.0 + _sign(change, rng))


def _cutout(image: Image.Image, side: float, rng: np.random.Generator) -> Image.Image:
    x, y = int(rng.random() * image.width), int(rng.random() * image.height)
    return cover_square(image, x, y, int(side))


def cover_square(image: Image.Image, x: int, y: int, side: int) -> Image.Image:
    """A copy with a square around pixel (x, y) in one colour, cut at the border; of an odd side, one pixel less."""
    half, image = side // 2, image.copy()
    image.paste(CUTOUT_COLOUR, (max(0, x - half), max(0, y - half), x + half, y + half))
    return image


OPERATIONS: dict[str, tuple[Operation, np.ndarray]] = {
    "shear_x": (_map_affine(1), np.linspace(0, 0.3, STEPS)),
    "shear_y": (_map_affine(3), np.linspace(0, 0.3, STEPS)),
    "translate_x": (_map_affine(2, "width"), np.linspace(0, 150 / 331, STEPS)),
    "translate_y": (_map_affine(5, "height"), np.linspace(0, 150 / 331, STEPS)),
    "rotate": (lambda image, degrees, rng: image.rotate(degrees, fillcolor=GREY), np.linspace(0, 30, STEPS)),
    "color": (_enhance(ImageEnhance.Color), np.linspace(0, 0.9, STEPS)),
    "contrast": (_enhance(ImageEnhance.Contrast), np.linspace(0, 0.9, STEPS)),
    "sharpness": (_enhance(ImageEnhance.Sharpness), np.linspace(0, 0.9, STEPS)),
    "brightness": (_enhance(ImageEnhance.Brightness), np.linspace(0, 0.9, STEPS)),
    "posterize": (lambda image, bits, rng: ImageOps.posterize(image, int(bits)), np.round(np.linspace(8, 4, STEPS))),
    "solarize": (lambda image, threshold, rng: ImageOps.solarize(image, threshold), np.linspace(256, 0, STEPS)),
    "cutout": (_cutout, np.round(np.linspace(0, 20, STEPS))),
    "autocontrast": (lambda image, _, rng: ImageOps.autocontrast(image), np.zeros(STEPS)),
    "equalize": (lambda image, _, rng: ImageOps.equalize(image), np.zeros(STEPS)),
    "invert": (lambda image, _, rng: ImageOps.invert(image), np.zeros(STEPS)),
}
"""Each operation with its magnitude at index 0..9; index 0 is never drawn."""


def rand_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Two operations, drawn with replacement over 15 x 9 (operation, magnitude) pairs, each applied half of the time."""
    for _ in range(2):
        operation, magnitudes = tuple(OPERATIONS.values())[rng.integers(len(OPERATIONS))]
        magnitude = magnitudes[rng.integers(1, STEPS)]
        if rng.random() < 0.5:
            image = operation(image, magnitude, rng)
    return image
