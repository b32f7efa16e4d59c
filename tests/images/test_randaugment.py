"""Protects RandAugment: the released operations to the last byte, their magnitudes, and how often they are applied."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import golden
from PIL import Image

from sgre_lib.images.randaugment import OPERATIONS, cover_square, rand_augment


@pytest.fixture(scope="module")
def photo():
    values = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((60, 40))


def test_magnitudes_are_the_released_tables():
    tops = [float(magnitudes[9]) for _, magnitudes in OPERATIONS.values()]
    assert len(OPERATIONS) == 15
    assert tops[:5] == pytest.approx([0.3, 0.3, 150 / 331, 150 / 331, 30])
    assert tops[5:9] == pytest.approx([0.9] * 4)
    assert OPERATIONS["posterize"][1].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert OPERATIONS["solarize"][1][[0, 9]].tolist() == [256, 0]
    assert OPERATIONS["cutout"][1].tolist() == [0, 2, 4, 7, 9, 11, 13, 16, 18, 20]


class Chance:
    """A generator whose every draw is `value`."""

    def __init__(self, value: float):
        self.value = value

    def random(self) -> float:
        return self.value


RELEASED_NAMES = {"shearX": "shear_x", "shearY": "shear_y", "translateX": "translate_x", "translateY": "translate_y"}


@pytest.mark.parametrize("released", golden("randaugment_ops")["ops"].tolist())
def test_operations_give_the_released_bytes(released):
    """Every magnitude with both signs, where there is one."""
    arrays = golden("randaugment_ops")
    operation, magnitudes = OPERATIONS[RELEASED_NAMES.get(released, released)]
    image, expected = Image.fromarray(arrays["image"]), arrays["outputs"][arrays["ops"].tolist().index(released)]
    for index in range(1, 10):
        for column, chance in enumerate((0.9, 0.1)):  # a draw below one half turns the sign
            result = operation(image, magnitudes[index], Chance(chance))
            assert np.array_equal(np.asarray(result), expected[index - 1, column]), (index, column)


def test_cutout_gives_the_released_bytes():
    arrays = golden("randaugment_ops")
    image, magnitudes = Image.fromarray(arrays["image"]), OPERATIONS["cutout"][1]
    for index in range(1, 10):
        for column, (x, y) in enumerate(arrays["cutout_centres_xy"].tolist()):
            result = cover_square(image, x, y, int(magnitudes[index]))
            assert np.array_equal(np.asarray(result), arrays["cutout"][index - 1, column]), (index, x, y)


def test_cutout_is_centred_on_any_pixel():
    image = Image.new("RGB", (5, 3))
    operation, _ = OPERATIONS["cutout"]
    centres = [operation(image, 2, Chance(value)) for value in (0.0, 0.999)]
    assert np.array_equal(np.asarray(centres[0]), np.asarray(cover_square(image, 0, 0, 2)))
    assert np.array_equal(np.asarray(centres[1]), np.asarray(cover_square(image, 4, 2, 2)))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("index", [1, 9])
def test_every_operation_keeps_size_and_mode_and_its_input(photo, name, index):
    operation, magnitudes = OPERATIONS[name]
    before = photo.tobytes()
    result = operation(photo, magnitudes[index], np.random.default_rng(0))
    assert (result.size, result.mode) == (photo.size, "RGB")
    assert photo.tobytes() == before


def test_rand_augment_leaves_a_quarter_of_images_alone(photo):
    same = [np.array_equal(rand_augment(photo, np.random.default_rng(s)), photo) for s in range(400)]
    assert 0.2 < np.mean(same) < 0.36  # a quarter, and a few operations that change nothing at their magnitude
