"""Protects heatmaps of photos: the files they leave, the rule that picks images, bad requests."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sgre_lib import UserError, visualize
from sgre_lib.heatmaps.photo_choice import choose_gallery, choose_images


def test_heatmap_files(experiment, small_mini):
    (folder,) = visualize(experiment, images=["000046"], labels="sun,traffic light")
    assert folder == experiment / "visualization" / "000046"
    maps = np.load(folder / "alignment.npy")
    assert maps.shape == (16, 4, 4)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)
    about = json.loads((folder / "heatmap.json").read_text())
    assert [row["label"] for row in about["labels"]] == ["sun", "traffic light"]
    with Image.open(folder / "heatmap.png") as picture:
        assert picture.info["Description"] == about["alt_text"]
        assert picture.width > 400


def test_images_by_rule_make_a_gallery(experiment):
    folders = visualize(experiment, limit=4)
    assert len(set(folders)) == 4
    assert 1 <= len(choose_gallery(experiment)) <= 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"images": ["nothing"]}, "no test image"),
        ({"labels": "unicorn"}, "--labels unicorn"),
        ({"limit": 0}, "--limit 0"),
    ],
)
def test_bad_requests(experiment, request_, message):
    with pytest.raises(UserError, match=message):
        visualize(experiment, **request_)


def test_rule_takes_hits_false_alarms_and_misses_in_turn():
    scores = np.array([[0.9, 0.1], [0.2, 0.95], [0.3, 0.1], [0.8, 0.2]])
    targets = np.array([[1, 0], [0, 0], [1, 0], [1, 0]])
    chosen = choose_images(scores, targets, 4)
    assert chosen == [(0, "hit", 0), (1, "false alarm", 1), (2, "missed", 0), (3, "hit", 0)]
    assert len(choose_images(scores, targets, 9)) == 4
