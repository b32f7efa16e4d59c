"""RandAugment as the release has it: two of fifteen operations, each with probability one half."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

GREY = (128, 128, 128)

CUTOUT_COLOUR = (125, 122, 113)

STEPS = 10


def _evenly(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, STEPS)


def _affine(image: Image.Image, coefficients: tuple) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BICUBIC, fillcolor=GREY
    )


def _signed(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() < 0.5 else value


def _shear_x(image, value, rng):
    return _affine(image, (1, _signed(value, rng), 0, 0, 1, 0))


def _shear_y(image, value, rng):
    return _affine(image, (1, 0, 0, _signed(value, rng), 1, 0))


def _translate_x(image, value, rng):
    return _affine(image, (1, 0, _signed(value, rng) * image.width, 0, 1, 0))


def _translate_y(image, value, rng):
    return _affine(image, (1, 0, 0, 0, 1, _signed(value, rng) * image.height))


def _rotate(image, value, rng):
    return image.rotate(value, resample=Image.Resampling.BICUBIC, fillcolor=GREY)


def _enhance(kind) -> Callable:
    return lambda image, value, rng: kind(image).enhance(1.0 + _signed(value, rng))


def _cutout(image, value, rng):
    side, (width, height) = float(value), image.size
    left, top = max(0, int(rng.random() * width - side / 2)), max(0, int(rng.random() * height - side / 2))
    image = image.copy()
    corners = (left, top, min(width, left + side), min(height, top + side))
    ImageDraw.Draw(image).rectangle(corners, fill=CUTOUT_COLOUR)
    return image


OPERATIONS: tuple[tuple[Callable, np.ndarray], ...] = (
    (_shear_x, _evenly(0, 0.3)),
    (_shear_y, _evenly(0, 0.3)),
    (_translate_x, _evenly(0, 150 / 331)),
    (_translate_y, _evenly(0, 150 / 331)),
    (_rotate, _evenly(0, 30)),
    (_enhance(ImageEnhance.Color), _evenly(0, 0.9)),
    (_enhance(ImageEnhance.Contrast), _evenly(0, 0.9)),
    (_enhance(ImageEnhance.Sharpness), _evenly(0, 0.9)),
    (_enhance(ImageEnhance.Brightness), _evenly(0, 0.9)),
    (lambda image, value, rng: ImageOps.posterize(image, int(value)), np.round(_evenly(8, 4))),
    (lambda image, value, rng: ImageOps.solarize(image, value), _evenly(256, 0)),
    (_cutout, _evenly(0, 20)),
    (lambda image, value, rng: ImageOps.autocontrast(image), np.zeros(STEPS)),
    (lambda image, value, rng: ImageOps.equalize(image), np.zeros(STEPS)),
    (lambda image, value, rng: ImageOps.invert(image), np.zeros(STEPS)),
)
"""Each operation with its magnitude at index 0..9; index 0 is never drawn."""


def rand_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Two operations, drawn with replacement over 15 x 9 (operation, magnitude) pairs, each applied half of the time."""
    for _ in range(2):
        operation, magnitudes = OPERATIONS[rng.integers(len(OPERATIONS))]
        magnitude = magnitudes[rng.integers(1, STEPS)]
        if rng.random() < 0.5:
            image = operation(image, magnitude, rng)
    return image
