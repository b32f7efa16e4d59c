"""Protects the boxes of every dataset: fractions of the photo, which objects count, what is refused with its line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sgre_lib import PreparedDataset, UserError, prepare
from sgre_lib.datasets.boxes import add_box
from sgre_lib.datasets.inspection import inspect


def test_a_box_is_cut_at_the_photo_and_left_out_where_nothing_is_left():
    boxes: dict = {}
    for corners in ((-5, 2, 10, 50), (25, 0, 30, 5), (3, 3, 3, 9), (float("nan"), 0, 1, 1), (1, 2, 3), ("x", 1, 2, 3)):
        add_box(boxes, "cat", corners, (20, 10))
    for extent in ((10, 2, 5, 50), (25, 0, 5, 5), None, 5, [], {}, ("1", None, 2, 3)):
        add_box(boxes, "cat", extent, (20, 10), extent=True)
    assert {label: list(flat) for label, flat in boxes.items()} == {"cat": [0, 0.2, 0.5, 1, 0.5, 0.2, 0.75, 1]}


def write_voc_photo(raw, name, objects, size):
    """objects: (label, difficult, box) each, the box as VOC has it: pixels from 1, inclusive, or no box."""
    Image.new("RGB", size).save(raw / "JPEGImages" / f"{name}.jpg")
    body = ""
    for label, difficult, box in objects:
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        body += f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"
    (raw / "Annotations" / f"{name}.xml").write_text(f"<annotation>{body}</annotation>")


@pytest.fixture
def voc(tmp_path):
    raw = tmp_path / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (raw / folder).mkdir(parents=True)
    write_voc_photo(raw, "a", [("cat", 0, (1, 1, 2, 2))], (8, 8))
    cats = [("cat", 0, (11, 1, 20, 5)), ("cat", 1, (1, 1, 2, 2)), ("Cat", 0, (1, 6, 5, 10))]
    write_voc_photo(raw, "b", [*cats, ("dog", 1, (1, 1, 20, 10))], (20, 10))
    write_voc_photo(raw, "c", [("dog", 0, ("?", 1, 2, 2))], (20, 10))
    (raw / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    (raw / "ImageSets" / "Main" / "test.txt").write_text("b\nc\n")
    return tmp_path


def test_boxes_of_voc_are_fractions_and_follow_the_difficult_rule(voc):
    prepared = prepare("voc2007", data_root=voc, out=voc / "out", progress=False)
    first, second = prepared.boxes("test")
    assert list(first) == [prepared.labels.index("cat")]  # the dog is difficult
    assert first[prepared.labels.index("cat")].tolist() == [[0.5, 0, 1, 0.5], [0, 0.5, 0.25, 1]]
    assert second == {}  # its box is not one
    (line,) = (voc / "out" / "test_boxes.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == "VOC2007/JPEGImages/b.jpg"
    assert prepared.boxes("train") is None


def test_boxes_of_coco_leave_crowds_out(tmp_path):
    raw = tmp_path / "MSCOCO"
    for split, names in (("train2014", ["t.jpg"]), ("val2014", ["gone.jpg", "v.jpg", "w.jpg"])):
        (raw / split).mkdir(parents=True)
        (raw / "annotations").mkdir(exist_ok=True)
        for name in names[-2:]:
            (raw / split / name).touch()
        boxes = [
            (18, [100, 50, 200, 25]),
            (18, [390, 190, 50, 50]),
            (1, [0, 0, 400, 200], 1),
            (1, None),
            (1, ["x"] * 4),
        ]
        annotations = [
            {"image_id": number, "category_id": box[0], "bbox": box[1], "iscrowd": len(box) - 2}
            for number in range(len(names))
            for box in boxes
        ]
        content = {
            "images": [{"id": n, "file_name": name, "width": 400, "height": 200} for n, name in enumerate(names)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        }
        del content["images"][-1]["width"]  # the last photo's size is not known
        (raw / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    prepared = prepare("mscoco", data_root=tmp_path, out=tmp_path / "out", skip_missing=True, progress=False)
    names, targets = prepared.read_list("test")
    assert [name[-5:] for name in names] == ["v.jpg", "w.jpg"]
    assert targets.tolist() == [[1, 1], [1, 1]]
    first, second = prepared.boxes("test")
    assert {label: boxes.tolist() for label, boxes in first.items()} == {
        1: [[0.25, 0.25, 0.75, 0.375], [0.975, 0.95, 1, 1]]
    }
    assert second == {}


def test_boxes_of_visual_genome_are_those_of_the_recovered_names(tmp_path):
    raw = tmp_path / "VisualGenome"
    (raw / "ssgrl_partition").mkdir(parents=True)
    (raw / "VG_100K").mkdir()
    thing = {"x": 10, "y": 0, "w": 30, "h": 20}
    objects = [
        {"image_id": 1, "objects": [{"names": ["sky"]}, {"names": ["dog"]}]},
        {"image_id": 2, "objects": [{"names": ["Blue  SKY", "sky "], **thing}, {"names": ["dog"], **thing},
                                    {"names": ["lamp"], **thing}, {"names": ["sky"], "x": 1}]},
        {"image_id": 3, "objects": [{"names": ["dog"], **thing}]},
    ]  # fmt: skip
    (raw / "objects.json").write_text(json.dumps(objects))
    # Image 2 shows a dog that its label indices do not have.
    indices = {"1.jpg": [0, 1], "2.jpg": [0], "3.jpg": [1]}
    (raw / "ssgrl_partition" / "vg_category_500_labels_index.json").write_text(json.dumps(indices))
    (raw / "ssgrl_partition" / "train_list_500.txt").write_text("1.jpg\n")
    (raw / "ssgrl_partition" / "test_list_500.txt").write_text("2.jpg\n3.jpg\n")
    for number, size in ((1, (8, 8)), (2, (100, 40))):
        Image.new("RGB", size).save(raw / "VG_100K" / f"{number}.jpg")
    (raw / "VG_100K" / "3.jpg").touch()  # cut off: its size is not known
    prepared = prepare("vg500", data_root=tmp_path, out=tmp_path / "out", progress=False)
    first, second = prepared.boxes("test")
    assert {prepared.labels[label]: boxes.tolist() for label, boxes in first.items()} == {"sky": [[0.1, 0, 0.4, 0.5]]}
    assert second == {}


def test_boxes_of_mini_are_those_of_its_drawn_objects(small_mini):
    from sgre_lib.mini.scenes import compose_scene

    prepared = PreparedDataset(small_mini)
    names, targets = prepared.read_list("test")
    boxes = prepared.boxes("test")
    assert len(boxes) == len(names) == 20
    for name, of_image, present in zip(names, boxes, targets, strict=True):
        _, objects = compose_scene(0, int(name[-10:-4]), 64)
        expected: dict[int, list] = {}
        for item in objects:
            if not item.difficult:
                xmin, ymin, xmax, ymax = item.box
                corners = [(xmin - 1) / 64, (ymin - 1) / 64, xmax / 64, ymax / 64]
                expected.setdefault(prepared.labels.index(item.label), []).append(corners)
        assert of_image.keys() == expected.keys() == set(np.flatnonzero(present))
        for label, corners in expected.items():
            np.testing.assert_allclose(of_image[label], corners, atol=5e-5)


def test_a_folder_without_boxes_is_as_good_as_before(small_mini, tmp_path):
    shutil.copytree(small_mini, tmp_path / "own")
    before = PreparedDataset(small_mini).fingerprint()
    (tmp_path / "own" / "test_boxes.jsonl").unlink()
    assert PreparedDataset(tmp_path / "own").boxes("test") is None
    assert PreparedDataset(tmp_path / "own").fingerprint() == before


def test_boxes_of_another_dataset_are_set_aside(voc):
    out = prepare("voc2007", data_root=voc, out=voc / "out", progress=False).folder
    (voc / "VOC2007" / "Annotations" / "b.xml").write_text("<a><object><name>cat</name></object></a>")
    assert prepare("voc2007", data_root=voc, out=out, progress=False).boxes("test") is None
    assert (out / "test_boxes.jsonl.previous").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "b.jpg"', "is not {"),
        ('{"image": "b.jpg"}', "is not {"),
        ('{"image": ["b.jpg"], "boxes": {}}', "is not {"),
        ("[]", "is not {"),
        ('{"image": "z.jpg", "boxes": {}}', "z.jpg is not in the list"),
        ('{"image": "a.jpg", "boxes": {}}', "a.jpg is there twice"),
        ('{"image": "b.jpg", "boxes": {"cow": [[0, 0, 1, 1]]}}', "'cow' is not in label.txt"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0, 0, 1]]}}', "cat has a box that is not four fractions"),
        ('{"image": "b.jpg", "boxes": {"cat": [0, 0, 1, 1]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0, 0, 1, 20]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0.5, 0, 0.5, 1]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0, 0, 1, NaN]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [["x", 0, 1, 1]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": []}}', "cat has a box"),
    ],
)
def test_wrong_boxes_are_named_with_file_and_line(tmp_path, line, message):
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "label.txt").write_text("cat\n")
    (tmp_path / "train.txt").write_text("a.jpg\tcat\n")
    (tmp_path / "test.txt").write_text("a.jpg\tcat\nb.jpg\tcat\n")
    path = tmp_path / "test_boxes.jsonl"
    path.write_text('{"image": "a.jpg", "boxes": {"cat": [[0, 0, 1, 0.5]]}}\n' + line)
    with pytest.raises(UserError) as caught:
        PreparedDataset(tmp_path).boxes("test")
    assert str(caught.value).startswith(f"{path} line 2")
    assert message in str(caught.value)
    assert "unreadable boxes" in inspect(tmp_path, progress=False).text()
