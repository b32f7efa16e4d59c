"""Image transforms of the released recipe: a training image is varied, a test image only resized.

Every random choice comes from one generator made of (seed, epoch, image), so the picture that training sees does not
depend on workers, processes or a restart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
GREY = (128, 128, 128)
CUTOUT_COLOUR = (125, 122, 113)
RECTANGLE_FRACTION = 0.5
"""Side of the random-colour rectangle, as a fraction of the image's."""


class TestTransform:
    """RGB image -> float32 (3, S, S): resize ignoring the aspect ratio, to 0..1, normalise.

    A loading process stops before the last two steps (`resize`, `vary`): the device does them for a whole batch.
    """

    __test__ = False  # the name is no test case

    def __init__(self, image_size: int, normalise: bool = True):
        self.image_size, self.normalise = image_size, normalise

    def resize(self, image: Image.Image) -> Image.Image:
        if image.mode != "RGB":
            image = image.convert("RGB")
        # Pillow's bilinear resize widens its filter when shrinking (antialiased).
        return image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)

    def vary(self, image: Image.Image, rng: np.random.Generator | None = None) -> Image.Image:
        """A resized image as it is seen this time; a test image is always seen as it is."""
        return image

    def to_array(self, image: Image.Image) -> np.ndarray:
        array = np.asarray(image, dtype=np.float32) / 255.0
        if self.normalise:
            array = (array - IMAGENET_MEAN) / IMAGENET_STD
        return np.ascontiguousarray(array.transpose(2, 0, 1))

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        return self.to_array(self.vary(self.resize(image), rng))


class TrainTransform(TestTransform):
    """RGB image -> float32 (3, S, S), varied by `rng`.

    augment: `full` is the release's: random flip, one random-colour rectangle, UDA-style RandAugment. `flip` keeps
    only the flip; `none` nothing.
    """

    def __init__(self, image_size: int, normalise: bool = True, augment: str = "full"):
        super().__init__(image_size, normalise)
        self.augment = augment

    def vary(self, image: Image.Image, rng: np.random.Generator | None = None) -> Image.Image:
        if self.augment != "none" and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        if self.augment == "full":
            image = rand_augment(draw_rectangle(image, rng), rng)
        return image


def make_transform(settings, *, training: bool) -> TestTransform:
    """The transform that the settings ask for."""
    if training:
        return TrainTransform(settings.image_size, not settings.orid_norm, settings.augment)
    return TestTransform(settings.image_size, not settings.orid_norm)


def draw_rectangle(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cover a rectangle of one random colour: half the width, half the height, centred anywhere, cut at the border."""
    width, height = image.size
    half_x, half_y = (int(RECTANGLE_FRACTION * side + 0.5) // 2 for side in image.size)
    x, y = int(rng.integers(width)), int(rng.integers(height))
    colour = tuple(int(value) for value in rng.integers(256, size=3))
    corners = (max(0, x - half_x), max(0, y - half_y), min(width, x + half_x), min(height, y + half_y))
    image = image.copy()
    ImageDraw.Draw(image).rectangle(corners, fill=colour)
    return image


# --- RandAugment as UDA uses it: 15 operations, nine magnitudes, two draws, each applied half of the time -------------

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
