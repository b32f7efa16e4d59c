"""Protects what the embedded dataset promises: same bytes from one seed, VOC's layout, fitting boxes, useful labels."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgre_lib.base.errors import UserError
from sgre_lib.mini.annotations import EDGES, make_mini
from sgre_lib.mini.objects import LABELS, draw_object
from sgre_lib.mini.scenes import THEMES, SceneObject, compose_scene, paste_layer, plan_labels

TRAIN, TEST = 24, 8


def hash_files(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_mini(tmp_path_factory.mktemp("mini"), train_images=TRAIN, test_images=TEST, progress=False)


@pytest.fixture(scope="module")
def scenes() -> list[list[SceneObject]]:
    """The objects of 300 scenes, drawn small: planning and placing do not depend on the picture's size."""
    return [compose_scene(0, index, image_size=48)[1] for index in range(1, 301)]


def test_labels_are_sixteen_sorted_names():
    assert len(LABELS) == 16
    assert list(LABELS) == sorted({label.lower() for label in LABELS})
    assert any(" " in label for label in LABELS)


def test_one_seed_gives_the_same_bytes(dataset, tmp_path):
    again = make_mini(tmp_path, train_images=TRAIN, test_images=TEST, progress=False)
    assert hash_files(again) == hash_files(dataset)


def test_a_picture_does_not_depend_on_how_many_there_are(dataset, tmp_path):
    few = make_mini(tmp_path, train_images=3, test_images=2, progress=False)
    all_of_them = hash_files(dataset)
    for path, digest in hash_files(few).items():
        if not path.startswith("ImageSets"):
            assert all_of_them[path] == digest, path


def test_order_of_drawing_does_not_matter():
    forward = [compose_scene(3, index, 64)[0].tobytes() for index in (1, 2, 3)]
    backward = [compose_scene(3, index, 64)[0].tobytes() for index in (3, 2, 1)]
    assert forward == backward[::-1]


def test_another_seed_gives_other_pictures(dataset, tmp_path):
    other = make_mini(tmp_path, seed=1, train_images=TRAIN, test_images=TEST, progress=False)
    ours, theirs = hash_files(dataset), hash_files(other)
    assert ours.keys() == theirs.keys()
    pictures = [path for path in ours if path.endswith(".jpg")]
    assert not any(ours[path] == theirs[path] for path in pictures)


def test_layout_is_pascal_voc(dataset):
    names = [f"{index:06d}" for index in range(1, TRAIN + TEST + 1)]
    assert sorted(path.name for path in dataset.iterdir()) == ["Annotations", "ImageSets", "JPEGImages"]
    assert sorted(path.name for path in (dataset / "JPEGImages").iterdir()) == [f"{name}.jpg" for name in names]
    assert sorted(path.name for path in (dataset / "Annotations").iterdir()) == [f"{name}.xml" for name in names]
    lists = dataset / "ImageSets" / "Main"
    assert sorted(path.name for path in lists.iterdir()) == ["test.txt", "trainval.txt"]
    assert (lists / "trainval.txt").read_bytes() == "".join(f"{name}\n" for name in names[:TRAIN]).encode()
    assert (lists / "test.txt").read_bytes() == "".join(f"{name}\n" for name in names[TRAIN:]).encode()


def test_annotations_describe_the_pictures(dataset):
    for path in sorted((dataset / "Annotations").iterdir()):
        annotation = ElementTree.parse(path).getroot()
        assert annotation.tag == "annotation"
        assert [child.tag for child in annotation][:5] == ["folder", "filename", "source", "size", "segmented"]
        assert annotation.findtext("folder") == "mini"
        with Image.open(dataset / "JPEGImages" / annotation.findtext("filename")) as picture:
            width, height = picture.size
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
        size = annotation.find("size")
        assert [size.findtext(tag) for tag in ("width", "height", "depth")] == [str(width), str(height), "3"]
        objects = annotation.findall("object")
        assert objects, path.name
        for item in objects:
            assert [child.tag for child in item] == ["name", "pose", "truncated", "difficult", "bndbox"]
            assert item.findtext("name") in LABELS
            assert item.findtext("truncated") in ("0", "1")
            assert item.findtext("difficult") in ("0", "1")
            xmin, ymin, xmax, ymax = (int(item.find("bndbox").findtext(edge)) for edge in EDGES)
            assert 1 <= xmin <= xmax <= width
            assert 1 <= ymin <= ymax <= height


def test_box_is_the_visible_extent():
    scene = Image.new("RGB", (40, 40))
    owner = Image.new("L", (40, 40))
    layer = Image.new("RGBA", (10, 6), (255, 0, 0, 255))
    area, cut = paste_layer(scene, owner, layer, 2.0, 20.0, 1)
    assert (area, cut) == (60, True)
    assert paste_layer(scene, owner, layer, 20.0, 20.0, 2) == (60, False)
    paste_layer(scene, owner, layer, 24.0, 20.0, 0)  # clutter in front hides six columns of the second
    rows, columns = np.nonzero(np.asarray(owner) == 1)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (0, 6, 17, 22)
    rows, columns = np.nonzero(np.asarray(owner) == 2)
    assert (columns.min(), columns.max()) == (15, 18)


@pytest.mark.parametrize("centre", [(-30.0, 20.0), (70.0, 20.0), (20.0, -30.0), (20.0, 70.0)])
def test_an_object_outside_the_picture_leaves_no_trace(centre):
    owner = Image.new("L", (40, 40))
    layer = Image.new("RGBA", (10, 6), (255, 0, 0, 255))
    assert paste_layer(Image.new("RGB", (40, 40)), owner, layer, *centre, 1) == (60, True)
    assert owner.getbbox() is None


def test_labels_are_balanced_enough(scenes):
    present = [{item.label for item in objects if not item.difficult} for objects in scenes]
    counts = Counter(label for labels in present for label in labels)
    assert set(counts) == set(LABELS)
    assert min(counts.values()) >= 20, counts
    assert 2.0 < np.mean([len(labels) for labels in present]) < 2.6
    difficult = np.mean([item.difficult for objects in scenes for item in objects])
    truncated = np.mean([item.truncated for objects in scenes for item in objects])
    assert 0.005 < difficult < 0.1
    assert 0.01 < truncated < 0.15


def test_every_label_is_planned_often_at_full_size():
    """The whole dataset without drawing: the plan is what a scene draws first from its generator."""
    plans = [set(plan_labels(np.random.default_rng((0, index)))[1]) for index in range(1, 1301)]
    for part, least in ((plans[:1000], 88), (plans[1000:], 28)):
        counts = Counter(label for labels in part for label in labels)
        assert min(counts[label] for label in LABELS) >= least, counts


def test_co_occurrence_can_be_learnt_and_is_not_certain():
    plans = [plan_labels(np.random.default_rng((0, index))) for index in range(1, 1301)]
    themes = Counter(theme for theme, _ in plans)
    assert set(themes) == set(THEMES)
    with_moon = [labels for _, labels in plans if "moon" in labels]
    stars_beside_moon = np.mean(["star" in labels for labels in with_moon])
    stars = np.mean(["star" in labels for _, labels in plans])
    assert 2 * stars < stars_beside_moon < 0.9
    for name, theme in THEMES.items():
        strays = [any(label not in theme["labels"] for label in labels) for place, labels in plans if place == name]
        assert 0.1 < np.mean(strays) < 0.4, name


def test_classes_look_different():
    """Mean looks at 16 x 16: any two classes differ, although pairs such as ball and clock are meant to be near."""
    means = {}
    for label in LABELS:
        drawn = [draw_object(label, 48, np.random.default_rng((5, index))) for index in range(12)]
        small = [np.asarray(layer.convert("RGBa").resize((16, 16)), dtype=float) for layer in drawn]
        means[label] = np.mean(small, axis=0)
    for first in LABELS:
        for second in LABELS:
            if first < second:
                assert np.abs(means[first] - means[second]).mean() > 6, (first, second)


def test_drawn_object_fills_its_layer_with_hard_edges():
    for label in LABELS:
        layer = draw_object(label, 64, np.random.default_rng(1))
        alpha = np.asarray(layer.getchannel("A"))
        assert layer.getchannel("A").getbbox() == (0, 0, *layer.size)
        assert set(np.unique(alpha)) <= {0, 255}, label
        assert 32 <= max(layer.size) <= 96


def test_another_image_size_shows_the_same_scenes():
    for index in range(1, 9):
        small, large = (compose_scene(0, index, size) for size in (96, 192))
        assert small[0].size == (96, 96)
        assert [item.label for item in small[1]] == [item.label for item in large[1]]
        # The median: rounding may hide the sliver of an object that the larger picture still shows.
        apart = np.array([item.box for item in small[1]]) * 2 - np.array([item.box for item in large[1]])
        assert np.median(np.abs(apart)) <= 3


def test_lists_are_written_last(dataset, tmp_path, monkeypatch):
    root = make_mini(tmp_path, train_images=2, test_images=1, progress=False)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sgre_lib.mini.annotations.compose_scene", stop)
        with pytest.raises(KeyboardInterrupt):
            make_mini(root, train_images=2, test_images=1, progress=False)
    assert list((root / "ImageSets" / "Main").iterdir()) == []
    make_mini(root, train_images=2, test_images=1, progress=False)
    assert len(list((root / "ImageSets" / "Main").iterdir())) == 2


def test_somebody_elses_pictures_are_left_alone(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages" / "000001.jpg").write_bytes(b"a photo")
    with pytest.raises(UserError, match="not mini's"):
        make_mini(tmp_path, train_images=1, test_images=1, progress=False)
    assert (tmp_path / "JPEGImages" / "000001.jpg").read_bytes() == b"a photo"


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"train_images": 0}, {"test_images": 0}, {"image_size": 16}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_mini(tmp_path / "mini", progress=False, **wrong)
    assert not (tmp_path / "mini").exists()
