"""Protects the measures of one heatmap: exact pointing and share, chance and ceiling, and their averages."""

from __future__ import annotations

import numpy as np
import pytest

from sgre_lib.heatmaps.pointing_game import Localisation, Pair, cover_patches, measure_map, summarise_pairs


def test_a_map_placed_by_hand():
    weights = np.array([[1, 2], [3, 14]])  # 5, 10, 15 and 70 %
    # The upper half of the lower right patch: its centre is on the edge, which is inside.
    found = measure_map(weights, np.array([[0.5, 0.5, 1, 0.75]]))
    assert found == pytest.approx(Localisation(1, 0.25, 1, 0.35, 0.125, 0.5))
    # A sliver at the left that holds no centre: half of both left patches.
    found = measure_map(weights, np.array([[0, 0, 0.2, 1]]))
    assert found == pytest.approx(Localisation(0, 0, 0, 0.4 * 0.2, 0.2, 0.4))


def test_boxes_of_a_label_count_as_their_union():
    weights = np.array([[0.0, 1.0, 0.0]])
    boxes = np.array([[0, 0, 0.5, 1], [1 / 3, 0, 0.5, 1], [0.9, 0, 1, 0.5]])
    found = measure_map(weights, boxes)
    assert found.share == pytest.approx(0.5)  # the middle patch ends at 2/3, the union at 1/2
    assert found.share_chance == pytest.approx(0.5 + 0.1 * 0.5)
    assert (found.pointing, found.pointing_chance) == (1, pytest.approx(2 / 3))


def test_scale_and_ties():
    """Maps need not sum to 1 (a class token takes its share); of several peaks the first counts."""
    boxes = np.array([[0, 0, 0.5, 0.5]])
    even = measure_map(np.full((4, 6), 0.001, np.float32), boxes)
    assert even.pointing == 1
    assert even.share == pytest.approx(even.share_chance) == pytest.approx(0.25)
    assert even.pointing_chance == pytest.approx(0.25)


@pytest.mark.parametrize("grid", [(1, 1), (4, 6), (14, 14)])
def test_covered_area_is_exact(grid):
    """Against counting the cells of a raster that all boxes and patches fit."""
    rng, fine = np.random.default_rng(0), 84
    for _ in range(20):
        corners = np.sort(rng.integers(0, fine + 1, (rng.integers(1, 6), 2, 2)), axis=1)
        corners = corners[(corners[:, 0] < corners[:, 1]).all(1)].reshape(-1, 4)
        raster = np.zeros((fine, fine))
        for x0, y0, x1, y1 in corners:
            raster[y0:y1, x0:x1] = 1
        height, width = grid
        expected = raster.reshape(height, fine // height, width, fine // width).mean((1, 3))
        np.testing.assert_allclose(cover_patches(corners / fine, grid), expected, atol=1e-12)


def test_averages_give_a_label_or_a_pair_one_vote():
    one, none = Localisation(1, 0.1, 1, 0.8, 0.2, 1), Localisation(0, 0.3, 1, 0.2, 0.4, 1)
    summary = summarise_pairs([Pair(0, 0, one), Pair(1, 0, one), Pair(2, 0, none), Pair(2, 2, none)], ["a", "b", "c"])
    assert summary["labels"]["a"]["pairs"] == 3
    assert summary["labels"]["a"]["pointing"] == pytest.approx(2 / 3)
    assert summary["mean_over_labels"]["pointing"] == pytest.approx(1 / 3)
    assert summary["mean_over_pairs"]["pointing"] == pytest.approx(1 / 2)
    assert summary["mean_over_labels"]["share_chance"] == pytest.approx((0.8 / 3 + 0.4) / 2)
    assert summary["labels_without_boxes"] == ["b"]
