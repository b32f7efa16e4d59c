"""Protects the image transforms: resizing, normalising, the random rectangle, and that one seed is one picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sgre_lib.images.transforms import PhotoTransform, draw_rectangle


@pytest.fixture(scope="module")
def photo():
    values = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((60, 40))


def test_test_transform_resizes_without_keeping_the_aspect_and_normalises():
    grey = Image.new("RGB", (60, 40), (124, 116, 104))
    array = PhotoTransform(32)(grey)
    assert array.shape == (3, 32, 32)
    assert array.dtype == np.float32
    assert np.abs(array).max() < 0.02  # ImageNet's mean is this grey
    assert PhotoTransform(32, normalise=False)(grey)[0, 0, 0] == pytest.approx(124 / 255)


def test_grayscale_and_transparent_images_become_rgb():
    for mode in ("L", "P", "RGBA", "CMYK"):
        assert PhotoTransform(16)(Image.new(mode, (20, 20))).shape == (3, 16, 16)


def test_one_seed_is_one_picture(photo):
    transform = PhotoTransform(32, augment="full")
    first = transform(photo, np.random.default_rng((0, 3, 7)))
    assert np.array_equal(first, transform(photo, np.random.default_rng((0, 3, 7))))
    others = [transform(photo, np.random.default_rng((0, 4, index))) for index in range(10)]
    assert all(not np.array_equal(first, other) for other in others)


def test_rectangle_is_half_the_side_and_cut_at_the_border():
    white = Image.new("RGB", (64, 64), "white")
    for seed in range(20):
        drawn = np.asarray(draw_rectangle(white, np.random.default_rng(seed)))
        rows, columns = np.nonzero((drawn != 255).any(axis=2))
        if len(rows):
            assert np.ptp(rows) <= 32
            assert np.ptp(columns) <= 32
            assert len({tuple(drawn[r, c]) for r, c in zip(rows, columns, strict=True)}) == 1
    assert np.asarray(white).min() == 255  # the input is not drawn upon
