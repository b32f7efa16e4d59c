"""Protects VG500 preparation: recovered label names and their agreement, both photo folders, memory, refusals."""

from __future__ import annotations

import csv
import io
import json
import random
import tracemalloc
from pathlib import Path

import pytest

from sgre_lib.base.errors import UserError
from sgre_lib.datasets.prepared import write_prepared
from sgre_lib.datasets.vg500 import read_label_indices, read_vg500, recover_names


def write_objects(path: Path, images: dict[int, list[str]]) -> Path:
    """Write objects.json as Visual Genome has it. images: image id -> object names."""
    entries = [
        {
            "image_id": image_id,
            "objects": [{"synsets": [], "x": 1, "object_id": n, "names": [name]} for n, name in enumerate(names)],
            "image_url": f"https://example.org/VG_100K_2/{image_id}.jpg",
        }
        for image_id, names in images.items()
    ]
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def raw(tmp_path) -> Path:
    """VisualGenome/ with three labels (0 sky, 1 café table, 2 dog) on four listed images and one that is not listed."""
    raw = tmp_path / "raw data" / "VisualGenome"
    partition = raw / "ssgrl_partition"
    partition.mkdir(parents=True)
    objects = {1: ["sky", "Café  table", "sky"], 22: ["dog"], 3: ["sky", "dog"], 4: ["café table", "lamp"], 9: ["dog"]}
    write_objects(raw / "objects.json", objects)
    indices = {"1.jpg": [1, 0], "22.jpg": [2], "3.jpg": [2, 0, 2], "4.jpg": [1]}
    (partition / "vg_category_500_labels_index.json").write_text(json.dumps(indices))
    (partition / "train_list_500.txt").write_bytes(b"22.jpg\r\n1.jpg\r\n3.jpg\r\n")
    (partition / "test_list_500.txt").write_text("4.jpg\n")
    for photo in ("VG_100K/1.jpg", "VG_100K_2/1.jpg", "VG_100K_2/22.jpg", "VG_100K/4.jpg"):  # 3.jpg is missing
        (raw / photo).parent.mkdir(exist_ok=True)
        (raw / photo).touch()
    return raw


def refusal(raw: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_vg500(raw.parent, progress=False)
    return str(caught.value)


def test_names_photos_and_labels_are_found(raw, tmp_path, capsys):
    dataset = read_vg500(raw.parent, progress=False)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.labels == ["sky", "café table", "dog"]
    assert train.names == ["VisualGenome/VG_100K_2/22.jpg", "VisualGenome/VG_100K/1.jpg"]
    assert train.labels == [["dog"], ["sky", "café table"]]
    assert train.missing == ["VisualGenome/3.jpg"]
    assert (test.names, test.labels, test.missing) == (["VisualGenome/VG_100K/4.jpg"], [["café table"]], [])
    assert "recovered 3 label names from objects.json" in capsys.readouterr().err
    prepared = write_prepared(tmp_path / "out", dataset, source="vg500", data_root=raw.parent)
    assert prepared.split("train").targets.tolist() == [[0, 0, 1], [1, 1, 0]]


def test_the_agreement_is_the_jaccard_index_and_is_written_out(tmp_path):
    # Label 0 is on images 1-4; `cup` on 1-3 and 5 (agreement 3/5), `mug` on 1-2 (2/4); image 99 is not labelled.
    names = {1: ["cup", "mug"], 2: ["cup", "mug"], 3: ["cup"], 4: [], 5: ["cup"], 99: ["cup", "mug"]}
    indices = {f"{n}.jpg": [0] for n in range(1, 5)} | {"5.jpg": []}
    (label,) = recover_names(write_objects(tmp_path / "o.json", names), indices, progress=False)
    assert label.name == "cup"
    assert label.agreement == pytest.approx(0.6)
    assert (label.images_index, label.images_name, label.images_both) == (4, 4, 3)
    assert (label.runner_up, label.runner_up_agreement) == ("mug", pytest.approx(0.5))


def test_the_table_of_agreements_has_a_row_a_label(raw):
    dataset = read_vg500(raw.parent, progress=False)
    rows = list(csv.DictReader(io.StringIO(dataset.files["label_agreement.csv"].decode())))
    assert [row["name"] for row in rows] == dataset.labels
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert float(rows[0]["agreement"]) == 1.0
    assert rows[0]["images_both"] == "2"


def test_many_names_are_recovered_through_noise_whatever_their_order(tmp_path):
    rng = random.Random(3)
    names = [f"thing {number}" for number in range(300)]
    order = rng.sample(range(60), 60)  # label index -> rank of its name
    images, indices = {}, {}
    for image_id in range(1, 1500):
        present = {min(int(rng.paretovariate(0.4)) - 1, 299) for _ in range(20)}
        images[image_id] = [names[rank] for rank in present for _ in range(rng.randint(1, 2))]
        kept = {rank for rank in present if rng.random() > 0.1} | {r for r in range(60) if rng.random() < 0.001}
        indices[f"{image_id}.jpg"] = [index for index, rank in enumerate(order) if rank in kept]
    labels = recover_names(write_objects(tmp_path / "objects.json", images), indices, progress=False)
    assert [label.name for label in labels] == [names[rank] for rank in order]


def test_two_labels_never_share_a_name(tmp_path):
    # `man` fits both labels best; label 1 is exactly its images, so label 0 takes what fits it next.
    names = {1: ["man", "boy"], 2: ["man", "boy"], 3: ["man", "boy"], 4: ["man"], 5: []}
    indices = {f"{image_id}.jpg": [0, 1] for image_id in range(1, 5)} | {"5.jpg": [0]}
    labels = recover_names(write_objects(tmp_path / "objects.json", names), indices, progress=False)
    assert [(label.name, label.agreement) for label in labels] == [("boy", 0.6), ("man", 1.0)]


def test_equal_agreement_goes_to_the_first_name_of_the_alphabet(tmp_path):
    objects = write_objects(tmp_path / "objects.json", {1: ["zebra", "ant"], 2: ["zebra", "ant"]})
    (label,) = recover_names(objects, {"1.jpg": [0], "2.jpg": [0]}, progress=False)
    assert (label.name, label.runner_up) == ("ant", "zebra")


def test_a_name_with_a_comma_cannot_be_a_label(tmp_path):
    objects = write_objects(tmp_path / "objects.json", {1: ["cup, mug", "cup"], 2: ["cup, mug"], 3: ["cup"]})
    (label,) = recover_names(objects, {"1.jpg": [0], "2.jpg": [0], "3.jpg": []}, agreement_floor=0.3, progress=False)
    assert label.name == "cup"


def test_labels_below_the_floor_are_refused_and_named(raw):
    # `dog` is on a third of label 2's images now, and there is no other name that only these have.
    names = {1: ["sky", "café table"], 22: [], 3: ["sky"], 4: ["café table", "dog"]}
    objects = write_objects(raw / "objects.json", names)
    text = refusal(raw)
    assert text.startswith(f"{objects}: 1 of 3 labels agree with no object name to 0.5")
    assert "index 2 (" in text
    labels = read_vg500(raw.parent, agreement_floor=0.0, progress=False).labels
    assert labels[:2] == ["sky", "café table"]


def test_a_label_index_without_an_image_is_refused(tmp_path):
    objects = write_objects(tmp_path / "objects.json", {1: ["cup"]})
    with pytest.raises(UserError, match="label index 0 is on no image"):
        recover_names(objects, {"1.jpg": [1]}, progress=False)


@pytest.mark.parametrize("index", [500, -1, 1.0, "1", True, None])
def test_a_value_that_is_no_label_index_is_refused_with_its_image(tmp_path, index):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"1.jpg": [0, 499], "2.jpg": [index]}))
    with pytest.raises(UserError) as caught:
        read_label_indices(path)
    assert str(caught.value) == f"{path}: 2.jpg has the label index {index!r}, which is not in 0..499"


def test_wrong_lists_are_named_with_file_and_line(raw):
    partition = raw / "ssgrl_partition"
    test = partition / "test_list_500.txt"
    test.write_text("4.jpg\n77.jpg\n")
    assert refusal(raw) == f"{test} line 2: 77.jpg is not in {partition / 'vg_category_500_labels_index.json'}"
    test.write_text("4.jpg\n22.jpg\n")
    assert refusal(raw) == f"{test} line 2: 22.jpg is also in train_list_500.txt"
    test.write_text("4.jpg\n4.jpg\n")
    assert refusal(raw) == f"image that is there twice: {test} lines 1 and 2: 4.jpg"


def test_broken_and_missing_files_are_named(raw):
    objects = raw / "objects.json"
    whole = objects.read_bytes()
    for broken in (whole[:-20], b"", b"\xff\xfe"):
        objects.write_bytes(broken)
        assert refusal(raw).startswith(f"{objects} is not whole, valid JSON")
    objects.write_text('[{"image_id": 1, "objects": [{"x": 3}]}]')
    assert refusal(raw).startswith(f"{objects}: entry 1 is not an image_id and objects with names")
    objects.write_text('[{"image_id": 1, "objects": []}, {"image_id": 1, "objects": []}]')
    assert refusal(raw) == f"{objects}: entry 2 is of an image that is there already"
    objects.write_text("[]")
    assert refusal(raw) == f"{objects} names no object on the images of the partition"
    objects.unlink()
    assert refusal(raw).endswith(f"are missing: {objects}")
    objects.write_bytes(whole)
    index = raw / "ssgrl_partition" / "vg_category_500_labels_index.json"
    index.write_text('{"1.jpg": [0]')
    assert refusal(raw).startswith(f"the label indices of VG500 cannot be read: {index}")
    index.unlink()
    assert refusal(raw).startswith(f"the label indices of VG500 cannot be read: {index}")


def test_memory_does_not_grow_with_the_objects(tmp_path):
    many = {image_id: [f"thing {n % 50}" for n in range(100)] for image_id in range(1, 601)}
    objects = write_objects(tmp_path / "objects.json", many)
    size = objects.stat().st_size
    tracemalloc.start()
    try:
        recover_names(objects, {f"{image_id}.jpg": [0] for image_id in many}, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 3_000_000
    assert peak < size / 3
