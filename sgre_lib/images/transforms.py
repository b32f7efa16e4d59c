"""From a photo to a model's input: resized, varied in training, normalised."""

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ..base.settings import TrainSettings
from .randaugment import rand_augment

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


class PhotoTransform:
    """RGB image -> float32 (3, S, S): resize ignoring the aspect ratio, vary, to 0..1, normalise.

    A DataLoader worker stops after `resize` and `vary`: the device does the rest for a whole batch (`move_pixels`).
    augment: `full` is the release's for training: random flip, one random-colour rectangle, UDA-style RandAugment.
    `flip` keeps only the flip; `none`, as for test images, nothing.
    """

    def __init__(self, image_size: int, normalise: bool = True, augment: str = "none"):
        self.image_size, self.normalise, self.augment = image_size, normalise, augment

    def resize(self, image: Image.Image) -> Image.Image:
        if image.mode != "RGB":
            image = image.convert("RGB")
        # Pillow's bilinear resize widens its filter when shrinking (antialiased).
        return image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)

    def vary(self, image: Image.Image, rng: np.random.Generator | None = None) -> Image.Image:
        """A resized image as it is seen this time; without augmentation `rng` is not used."""
        if self.augment != "none" and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        return rand_augment(draw_rectangle(image, rng), rng) if self.augment == "full" else image

    def to_array(self, image: Image.Image) -> np.ndarray:
        array = np.asarray(image, dtype=np.float32) / 255.0
        if self.normalise:
            array = (array - IMAGENET_MEAN) / IMAGENET_STD
        return np.ascontiguousarray(array.transpose(2, 0, 1))

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        return self.to_array(self.vary(self.resize(image), rng))


def make_transform(settings: TrainSettings, *, training: bool) -> PhotoTransform:
    """The transform that the settings ask for."""
    return PhotoTransform(settings.image_size, not settings.orid_norm, settings.augment if training else "none")


def draw_rectangle(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cover a rectangle of one random colour: half the width, half the height, centred anywhere, cut at the border."""
    half_x, half_y = ((side + 1) // 4 for side in image.size)
    x, y = (int(rng.integers(side)) for side in image.size)
    colour, image = tuple(rng.integers(256, size=3).tolist()), image.copy()
    ImageDraw.Draw(image).rectangle((x - half_x, y - half_y, x + half_x, y + half_y), fill=colour)
    return image
