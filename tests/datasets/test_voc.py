"""Protects preparation in VOC's layout: the difficult rule, label order, missing photos, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sgre_lib import PreparedDataset, UserError, prepare

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin></bndbox></object>"


def make_voc(root, year="2007", splits=None, difficult_default="0"):
    """A VOC tree of 8 x 8 photos. splits: list name -> {photo: [(class, difficult)]}."""
    raw = root / f"VOC{year}"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for name, photos in splits.items():
        (raw / "ImageSets" / "Main" / f"{name}.txt").write_text("\r\n".join(photos) + "\r\n")
        for photo, objects in photos.items():
            Image.new("RGB", (8, 8), "red").save(raw / "JPEGImages" / f"{photo}.jpg")
            body = "".join(OBJECT.format(label, difficult) for label, difficult in objects)
            (raw / "Annotations" / f"{photo}.xml").write_text(f"<annotation>{body}</annotation>")
    return raw


@pytest.fixture
def tree(tmp_path):
    make_voc(
        tmp_path,
        splits={
            "trainval": {"a1": [("Dog", 0), ("dog", 1)], "a2": [("cat", 1)], "a3": []},
            "test": {"b1": [("person", 1), ("sofa", 0)], "b2": [("person", 1), ("person", 0)], "b3": [("cow", 1)]},
        },
    )
    return tmp_path


def test_difficult_rule(tree):
    prepared = prepare("voc2007", data_root=tree, out=tree / "out", progress=False)
    assert len(prepared.labels) == 20
    assert prepared.labels == sorted(prepared.labels)
    assert (tree / "out" / "train.txt").read_text() == (
        "VOC2007/JPEGImages/a1.jpg\tdog\nVOC2007/JPEGImages/a2.jpg\t\nVOC2007/JPEGImages/a3.jpg\t\n"
    )
    names, targets = prepared.read_list("test")
    assert [name[-6:] for name in names] == ["b1.jpg", "b2.jpg", "b3.jpg"]  # only difficult objects: stays, unlabelled
    assert targets.sum(1).tolist() == [1, 1, 0]
    where = {label: prepared.labels.index(label) for label in ("person", "sofa", "cow")}
    expected = np.zeros((3, 20))
    expected[0, where["person"]] = expected[2, where["cow"]] = 1
    assert np.array_equal(prepared.ignore, expected)  # b2 has a clear person too: not ignored


def test_voc2012_trains_on_train_and_tests_on_val(tmp_path):
    make_voc(
        tmp_path, "2012", {"train": {"a": [("cat", 0)]}, "val": {"b": [("cat", 0)]}, "trainval": {"a": [], "b": []}}
    )
    prepared = prepare("voc2012", data_root=tmp_path, out=tmp_path / "out", progress=False)
    assert [prepared.read_list(split)[0] for split in ("train", "test")] == [
        ["VOC2012/JPEGImages/a.jpg"],
        ["VOC2012/JPEGImages/b.jpg"],
    ]


def test_missing_photos_are_an_error_unless_allowed_and_then_recorded(tree, capsys):
    (tree / "VOC2007" / "JPEGImages" / "a1.jpg").unlink()
    with pytest.raises(UserError, match=r"1 train images are missing \(VOC2007/JPEGImages/a1.jpg"):
        prepare("voc2007", data_root=tree, out=tree / "out", progress=False)
    assert not (tree / "out").exists()
    prepared = prepare("voc2007", data_root=tree, out=tree / "out", skip_missing=True, progress=False)
    assert len(prepared.read_list("train")[0]) == 2
    recorded = json.loads((tree / "out" / "prepared.json").read_text())
    assert recorded["missing"]["train"] == ["VOC2007/JPEGImages/a1.jpg"]
    assert "left out 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: (raw / "Annotations" / "a1.xml").write_text("<annotation>"), "a1.xml cannot be read"),
        (lambda raw: (raw / "Annotations" / "b1.xml").unlink(), "b1.xml cannot be read"),
        (lambda raw: (raw / "ImageSets" / "Main" / "test.txt").unlink(), "list of images is missing"),
        (
            lambda raw: (raw / "ImageSets" / "Main" / "test.txt").write_text("a1\n"),
            "test.txt line 1: a1 is also in trainval.txt",
        ),
        (
            lambda raw: (raw / "ImageSets" / "Main" / "test.txt").write_text("b1\nb1\n"),
            "image that is there twice: .*test.txt lines 1 and 2: b1",
        ),
        (lambda raw: (raw / "Annotations" / "a1.xml").write_text(f"<a>{OBJECT.format('unicorn', 0)}</a>"), "unicorn"),
    ],
)
def test_damaged_trees_are_refused_before_anything_is_written(tree, damage, message):
    damage(tree / "VOC2007")
    with pytest.raises(UserError, match=message):
        prepare("voc2007", data_root=tree, out=tree / "out", progress=False)
    assert not (tree / "out").exists()


def test_preparing_again_keeps_label_embeddings_of_the_same_labels_only(tree):
    out = prepare("voc2007", data_root=tree, out=tree / "out", progress=False).folder
    np.save(out / "bert.npy", np.zeros((20, 4)))
    prepare("voc2007", data_root=tree, out=out, progress=False)
    assert (out / "bert.npy").exists()
    (out / "label.txt").write_text("something else\n")
    with pytest.raises(UserError, match=r"label embeddings \(bert.npy\) for other labels"):
        prepare("voc2007", data_root=tree, out=out, progress=False)


def test_fingerprint_is_the_same_wherever_the_data_lies(tree, tmp_path_factory):
    first = prepare("voc2007", data_root=tree, out=tree / "out", progress=False)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (tree / "VOC2007").rename(elsewhere / "VOC2007")
    second = prepare("voc2007", data_root=elsewhere, out=elsewhere / "out", progress=False)
    assert first.fingerprint() == second.fingerprint()
    (elsewhere / "out" / "ignore.npy").unlink()
    assert PreparedDataset(elsewhere / "out").fingerprint() != second.fingerprint()


def test_a_raw_dataset_is_checked_without_preparing_it(tree, tmp_path, monkeypatch):
    from sgre_lib.datasets.prepare import check

    monkeypatch.chdir(tmp_path)
    assert check("voc2007", data_root=tree, progress=False).ok
    (tree / "VOC2007" / "JPEGImages" / "a1.jpg").write_bytes(b"cut")
    (tree / "VOC2007" / "JPEGImages" / "b2.jpg").unlink()
    found = check("voc2007", data_root=tree, progress=False)
    assert not found.ok
    assert "a1.jpg" in found.text()
    assert "b2.jpg" in found.text()
    assert not (tmp_path / "data").exists()
