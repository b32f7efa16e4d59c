"""Protects MS-COCO preparation: label order, crowds, images left out, missing photos, memory, and what is refused."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from sgre_lib.base.errors import UserError
from sgre_lib.datasets.coco import read_coco, stream_json
from sgre_lib.datasets.prepared import write_prepared

# Ids have gaps and names are not in alphabetical order, as in the real files.
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 3, "name": "traffic light"}]


def write_split(root: Path, folder: str, photos: dict[str, list], *, categories=CATEGORIES, more=(), absent=()) -> Path:
    """Write one split. photos: file name -> category ids, a string for a crowd. more: annotations as they stand."""
    ids = {name: 1000 + 7 * number for number, name in enumerate(photos)}
    annotations = [
        {"segmentation": [[1.5, 2, 3, 4, 5, 6]], "iscrowd": int(isinstance(category, str)), "image_id": ids[name]}
        | {"category_id": int(category), "id": number}
        for number, (name, category) in enumerate((name, c) for name, present in photos.items() for c in present)
    ]
    (root / "MSCOCO" / folder).mkdir(parents=True)
    for name in set(photos) - set(absent):
        (root / "MSCOCO" / folder / name).touch()
    path = root / "MSCOCO" / "annotations" / f"instances_{folder}.json"
    path.parent.mkdir(exist_ok=True)
    content = {
        "images": [{"file_name": name, "id": image_id} for name, image_id in ids.items()],
        "annotations": [*annotations, *more],
        "categories": categories,
    }
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_val(root: Path) -> Path:
    return write_split(root, "val2014", {"v.jpg": [1]})


def test_labels_follow_the_categories_and_crowds_count(tmp_path):
    photos = {"b.jpg": [3, 1, 3], "crowd only.jpg": ["18"], "nothing.jpg": [], "ñandú, big.jpg": [18, "1"]}
    write_split(tmp_path, "train2014", photos)
    write_val(tmp_path)
    raw = read_coco(tmp_path, progress=False)
    train, test = raw.splits["train"], raw.splits["test"]
    assert raw.labels == ["person", "dog", "traffic light"]
    assert train.names == [f"MSCOCO/train2014/{name}" for name in ("b.jpg", "crowd only.jpg", "ñandú, big.jpg")]
    assert train.labels == [["person", "traffic light"], ["dog"], ["person", "dog"]]
    assert test.names == ["MSCOCO/val2014/v.jpg"]
    assert train.missing == test.missing == []


def test_the_prepared_folder_reads_back_and_finds_its_photos(tmp_path):
    root = tmp_path / "raw data"
    write_split(root, "train2014", {"ü ü.jpg": [18], "b.jpg": [1, 3]})
    write_val(root)
    prepared = write_prepared(tmp_path / "out", read_coco(root, progress=False), source="mscoco", data_root=root)
    split = prepared.split("train")
    assert split.targets.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert all(path.is_file() for path in split.paths)


def test_keys_and_annotations_may_stand_in_any_order(tmp_path):
    path = write_split(tmp_path, "train2014", {"a.jpg": [1, 18], "b.jpg": [3]})
    write_val(tmp_path)
    before = read_coco(tmp_path, progress=False)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"].reverse()
    path.write_text(json.dumps(dict(reversed(content.items()))), encoding="utf-8")
    assert read_coco(tmp_path, progress=False) == before


def test_missing_photos_are_recorded_and_only_those_with_a_label(tmp_path):
    photos = {"here.jpg": [1], "gone.jpg": [1], "gone without a label.jpg": []}
    write_split(tmp_path, "train2014", photos, absent=["gone.jpg", "gone without a label.jpg"])
    write_val(tmp_path)
    train = read_coco(tmp_path, progress=False).splits["train"]
    assert train.names == ["MSCOCO/train2014/here.jpg"]
    assert train.missing == ["MSCOCO/train2014/gone.jpg"]


@pytest.mark.parametrize(
    ("annotation", "complaint"),
    [
        (
            {"image_id": 1000, "category_id": 99},
            "entry 2 of annotations is of category 99, which the file does not have",
        ),
        ({"image_id": 5, "category_id": 1}, "entry 2 of annotations is of image 5, which the file does not have"),
        ({"image_id": 1000, "caption": "A dog."}, "entry 2 of annotations has no image_id or no category_id"),
        ({"image_id": [1], "category_id": 1}, "entry 2 of annotations has no image_id or no category_id"),
        ("text", "entry 2 of annotations has no image_id or no category_id"),
    ],
)
def test_a_wrong_annotation_is_refused_with_file_and_place(tmp_path, annotation, complaint):
    path = write_split(tmp_path, "train2014", {"a.jpg": [1]}, more=[annotation])
    write_val(tmp_path)
    with pytest.raises(UserError) as caught:
        read_coco(tmp_path, progress=False)
    assert str(caught.value).startswith(f"{path}: {complaint}")


@pytest.mark.parametrize(
    ("categories", "complaint"),
    [
        ([*CATEGORIES[1:], CATEGORIES[0]], "do not have the same categories in the same order"),
        (CATEGORIES[:2], "do not have the same categories"),
        ([{"id": 1, "name": "cup, mug"}], "entry 1 of categories has the name 'cup, mug', which no list can hold"),
        (
            [{"id": 1, "name": "cup"}, {"id": 2, "name": "cup"}],
            "entry 2 of categories has the name 'cup', as an earlier one",
        ),
        ([{"id": 1}], "entry 1 of categories has no id or no name"),
        ([], "has no categories"),
    ],
)
def test_wrong_categories_are_refused(tmp_path, categories, complaint):
    write_split(tmp_path, "train2014", {"a.jpg": [1]}, categories=categories)
    write_val(tmp_path)
    with pytest.raises(UserError) as caught:
        read_coco(tmp_path, progress=False)
    assert complaint in str(caught.value)


def test_wrong_images_are_refused(tmp_path):
    path = write_split(tmp_path, "train2014", {"a.jpg": [1]})
    write_val(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    for images, complaint in (
        (
            [{"file_name": "a.jpg", "id": 1}, {"file_name": "b.jpg", "id": 1}],
            "entry 2 of images has the id 1, as an earlier one",
        ),
        (
            [{"file_name": "a.jpg", "id": 1}, {"file_name": "a.jpg", "id": 2}],
            "entry 2 of images has the file_name 'a.jpg', as an earlier one",
        ),
        ([{"file_name": "a\t.jpg", "id": 1}], "entry 1 of images has the file_name 'a\\t.jpg'"),
        ([{"file_name": "a.jpg"}], "entry 1 of images has no id or no file_name"),
    ):
        path.write_text(json.dumps(content | {"images": images}))
        with pytest.raises(UserError) as caught:
            read_coco(tmp_path, progress=False)
        assert str(caught.value).startswith(f"{path}: {complaint}")


def test_a_broken_or_missing_file_is_named(tmp_path):
    path = write_split(tmp_path, "train2014", {"a.jpg": [1]})
    with pytest.raises(UserError, match=r"annotations of MS-COCO are missing: .*instances_val2014\.json"):
        read_coco(tmp_path, progress=False)
    write_val(tmp_path)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole.replace(b"a.jpg", b"\xff.jpg"), b"<html>not found</html>"):
        path.write_bytes(broken)
        with pytest.raises(UserError) as caught:
            read_coco(tmp_path, progress=False)
        assert str(caught.value).startswith(f"{path} is not whole, valid JSON")
    path.write_bytes(whole)
    (tmp_path / "MSCOCO" / "train2014" / "a.jpg").unlink()
    (tmp_path / "MSCOCO" / "train2014").rmdir()
    with pytest.raises(UserError, match="train photos of MS-COCO are missing: there is no folder"):
        read_coco(tmp_path, progress=False)


def test_memory_holds_one_annotation_not_the_file(tmp_path):
    polygon = [[float(number) for number in range(500)]]
    crowd = [{"segmentation": polygon, "image_id": 1000, "category_id": 1}] * 1000
    path = write_split(tmp_path, "train2014", {"a.jpg": [1]}, more=crowd)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        assert sum(1 for _ in stream_json(path, "annotations.item", progress=False)) == 1001
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 3_000_000
    assert peak < size / 5


def test_the_progress_bar_counts_the_whole_file(tmp_path, capsys):
    write_split(tmp_path, "train2014", {"a.jpg": [1]})
    write_val(tmp_path)
    read_coco(tmp_path, progress=False)
    assert capsys.readouterr().err == ""
    read_coco(tmp_path, progress=True)
    bars = capsys.readouterr().err
    assert "instances_train2014.json annotations.item: 100%" in bars
    assert "MSCOCO val2014 photos: 100%" in bars


def test_the_genuine_annotation_files_read():
    folder = os.environ.get("SGRE_SHARED_DATA")
    if not folder or not (Path(folder) / "MSCOCO" / "annotations").is_dir():
        pytest.skip("SGRE_SHARED_DATA names no folder with genuine MS-COCO annotations")
    raw = read_coco(Path(folder), progress=False)
    published = (Path(folder) / "label_embeddings" / "mscoco" / "label.txt").read_text(encoding="utf-8").splitlines()
    assert raw.labels == published
    for split, name in ((raw.splits["train"], "train2014"), (raw.splits["test"], "val2014")):
        content = json.loads((Path(folder) / "MSCOCO" / "annotations" / f"instances_{name}.json").read_text())
        categories = {category["id"]: category["name"] for category in content["categories"]}
        expected: dict[int, set[str]] = {}
        for annotation in content["annotations"]:
            expected.setdefault(annotation["image_id"], set()).add(categories[annotation["category_id"]])
        file_names = {image["id"]: f"MSCOCO/{name}/{image['file_name']}" for image in content["images"]}
        found = dict(zip(split.names, map(set, split.labels), strict=True))
        assert found == {file_names[image_id]: present for image_id, present in expected.items()}
        assert split.missing == []


def test_prepare_by_name(tmp_path, capsys):
    """`prepare` knows the dataset, and says aloud that a subset has not the published counts."""
    from sgre_lib import prepare

    write_split(tmp_path, "train2014", {"a.jpg": [18]})
    write_val(tmp_path)
    prepared = prepare("mscoco", data_root=tmp_path, out=tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "prepared.json").exists()
    assert prepared.labels == ["person", "dog", "traffic light"]
    assert "published are 80" in capsys.readouterr().err
