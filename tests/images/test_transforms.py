"""Protects the image transforms: the released RandAugment's operations and ranges, and that one seed is one picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sgre_lib.images.randaugment import OPERATIONS, rand_augment
from sgre_lib.images.transforms import TestTransform, TrainTransform, draw_rectangle


@pytest.fixture(scope="module")
def photo():
    values = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((60, 40))


def test_test_transform_resizes_without_keeping_the_aspect_and_normalises():
    grey = Image.new("RGB", (60, 40), (124, 116, 104))
    array = TestTransform(32)(grey)
    assert array.shape == (3, 32, 32)
    assert array.dtype == np.float32
    assert np.abs(array).max() < 0.02  # ImageNet's mean is this grey
    assert TestTransform(32, normalise=False)(grey)[0, 0, 0] == pytest.approx(124 / 255)


def test_grayscale_and_transparent_images_become_rgb():
    for mode in ("L", "P", "RGBA", "CMYK"):
        assert TestTransform(16)(Image.new(mode, (20, 20))).shape == (3, 16, 16)


def test_one_seed_is_one_picture(photo):
    transform = TrainTransform(32)
    first = transform(photo, np.random.default_rng((0, 3, 7)))
    assert np.array_equal(first, transform(photo, np.random.default_rng((0, 3, 7))))
    others = [transform(photo, np.random.default_rng((0, 4, index))) for index in range(10)]
    assert all(not np.array_equal(first, other) for other in others)


def test_magnitudes_are_the_released_tables():
    tops = [float(magnitudes[9]) for _, magnitudes in OPERATIONS]
    assert len(OPERATIONS) == 15
    assert tops[:5] == pytest.approx([0.3, 0.3, 150 / 331, 150 / 331, 30])
    assert tops[5:9] == pytest.approx([0.9] * 4)
    assert OPERATIONS[9][1].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert OPERATIONS[10][1][0] == 256
    assert OPERATIONS[10][1][9] == 0
    assert OPERATIONS[11][1][9] == 20


@pytest.mark.parametrize("number", range(15))
@pytest.mark.parametrize("index", [1, 9])
def test_every_operation_keeps_size_and_mode(photo, number, index):
    operation, magnitudes = OPERATIONS[number]
    rng = np.random.default_rng(0)
    result = operation(photo, magnitudes[index], rng)
    assert (result.size, result.mode) == (photo.size, "RGB")


def test_geometric_operations_fill_with_grey():
    white = Image.new("RGB", (50, 50), "white")
    for number in (0, 1, 2, 3, 4):
        operation, magnitudes = OPERATIONS[number]
        colours = {colour for _, colour in operation(white, magnitudes[9], np.random.default_rng(0)).getcolors(2500)}
        assert (128, 128, 128) in colours


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


def test_rand_augment_leaves_a_quarter_of_images_alone(photo):
    same = [np.array_equal(rand_augment(photo, np.random.default_rng(s)), photo) for s in range(400)]
    assert 0.2 < np.mean(same) < 0.36  # a quarter, and a few operations that change nothing at their magnitude
