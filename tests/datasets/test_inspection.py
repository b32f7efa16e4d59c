"""Protects the check of a prepared folder: every fault is found at once, told with its place, and weighed rightly."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgre_lib.base.errors import UserError
from sgre_lib.datasets.inspection import Inspection, count_deviation, inspect
from sgre_lib.datasets.prepared import RawDataset, RawSplit, write_prepared


def photo_bytes(seed: int, mode: str = "RGB", form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A faultless prepared folder of four photos and two labels, one photo under the data root."""
    folder, root = tmp_path / "my photos", tmp_path / "raw"
    (folder / "a b").mkdir(parents=True)
    root.mkdir()
    for seed, path in enumerate((folder / "a b" / "ü.jpg", folder / "2.jpg", folder / "3.jpg", root / "4.jpg")):
        path.write_bytes(photo_bytes(seed))
    (folder / "label.txt").write_text("sea\nsky\n")
    (folder / "train.txt").write_text("a b/ü.jpg\tsea,sky\n2.jpg\tsky\n", encoding="utf-8")
    (folder / "test.txt").write_text("3.jpg\tsea\n4.jpg\tsky\n")
    return folder


def look(folder: Path) -> Inspection:
    return inspect(folder, data_root=folder.parent / "raw", progress=False)


def kinds(result: Inspection) -> set[tuple[str, str]]:
    return {(finding.severity, finding.what) for finding in result.findings}


def places(result: Inspection, what: str) -> list[str]:
    return [finding.where for finding in result.findings if finding.what == what]


def test_a_faultless_folder_has_no_finding(folder):
    np.save(folder / "ignore.npy", np.zeros((2, 2), np.uint8))
    result = look(folder)
    assert result.findings == []
    assert result.ok
    assert (result.images, result.labels, result.decoded) == ({"train": 2, "test": 2}, 2, 4)
    assert result.text().splitlines()[-1] == "no error"


def test_missing_cut_off_empty_and_foreign_files_are_errors(folder):
    (folder / "a b" / "ü.jpg").unlink()
    whole = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "3.jpg").write_bytes(b"")
    (folder.parent / "raw" / "4.jpg").write_text("<html>404</html>")
    result = look(folder)
    assert not result.ok
    (missing,) = places(result, "missing photo")
    assert missing.startswith("train.txt line 1: a b/ü.jpg")
    broken = places(result, "unreadable photo")
    assert [place.split(" (")[0] for place in broken] == [
        "train.txt line 2: 2.jpg",
        "test.txt line 1: 3.jpg",
        "test.txt line 2: 4.jpg",
    ]
    assert "truncated" in broken[0]
    assert "an empty file" in broken[1]
    assert result.decoded == 0
    assert result.text().splitlines()[-1] == "4 errors"


@pytest.mark.parametrize(("mode", "form"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")])
def test_photos_that_are_not_rgb_are_only_a_note(folder, mode, form):
    (folder / "3.jpg").write_bytes(photo_bytes(2, mode, form))
    result = look(folder)
    assert result.ok
    assert kinds(result) == {("note", "photo that is not RGB")}
    assert places(result, "photo that is not RGB") == [f"test.txt line 1: 3.jpg ({mode})"]


def test_the_same_bytes_in_both_splits_are_a_warning_and_in_one_split_a_note(folder):
    (folder / "3.jpg").write_bytes((folder / "2.jpg").read_bytes())
    (folder / "copy.jpg").write_bytes((folder / "2.jpg").read_bytes())
    with open(folder / "train.txt", "a") as file:
        file.write("copy.jpg\tsky\n")
    result = look(folder)
    assert result.ok
    assert kinds(result) == {("warning", "photo in both splits"), ("note", "same photo twice in a split")}
    assert places(result, "photo in both splits") == ["train.txt line 2: 2.jpg and test.txt line 1: 3.jpg"]
    assert places(result, "same photo twice in a split") == ["train.txt line 2: 2.jpg and train.txt line 3: copy.jpg"]


def test_repeated_rows_absent_labels_and_images_without_label(folder):
    (folder / "label.txt").write_text("sea\nsky\nunseen\n")
    (folder / "train.txt").write_text("2.jpg\tsky\n2.jpg\tsky\n", encoding="utf-8")
    (folder / "2.jpg").write_bytes(photo_bytes(1, "L"))
    (folder / "test.txt").write_text("3.jpg\t\n4.jpg\n")
    result = look(folder)
    assert result.ok
    assert places(result, "image that is listed twice") == ["train.txt lines 1 and 2: 2.jpg"]
    assert places(result, "photo that is not RGB") == ["train.txt line 1: 2.jpg (L)"]  # said once
    assert places(result, "label that no train image has") == ["sea", "unseen"]
    assert places(result, "label that no test image has") == ["sea", "sky", "unseen"]
    assert places(result, "image without a label") == ["test.txt line 1: 3.jpg", "test.txt line 2: 4.jpg"]
    assert "same photo twice in a split" not in {finding.what for finding in result.findings}


def test_faulty_lines_are_errors_and_do_not_end_the_inspection(folder):
    (folder / "label.txt").write_text("sea\nsky\n\nsea\ncup, mug\n")
    (folder / "train.txt").write_text(f"2.jpg\tsky,moon\n\tsea\n\n{'x' * 5000}\tsea\n", encoding="utf-8")
    (folder / "test.txt").write_bytes(b"\xff\xfe\n")
    result = look(folder)
    assert not result.ok
    assert places(result, "empty label") == ["label.txt line 3"]
    assert places(result, "label that is there twice") == ["label.txt lines 1 and 4: sea"]
    assert places(result, "unusable label") == ["label.txt line 5: 'cup, mug' has one of ',\\t'"]
    assert places(result, "label that label.txt does not have") == ["train.txt line 1: 'moon'"]
    assert places(result, "line without an image path") == ["train.txt line 2", "train.txt line 3"]
    assert len(places(result, "missing photo")) == 1
    assert "test.txt" in places(result, "unreadable list")[0]
    assert result.decoded == 1


def test_an_absent_or_empty_list_is_an_error(folder):
    rows = (folder / "train.txt").read_bytes()
    (folder / "train.txt").unlink()
    (folder / "test.txt").write_text("\n")
    result = look(folder)
    assert places(result, "unreadable list") == [f"the list of train images is missing: {folder / 'train.txt'}"]
    assert places(result, "empty list") == ["test.txt"]
    (folder / "train.txt").write_bytes(rows)
    (folder / "label.txt").unlink()  # one error, not one for each label in the lists
    assert "label that label.txt does not have" not in {finding.what for finding in look(folder).findings}


def test_masks_are_checked(folder):
    np.save(folder / "ignore.npy", np.zeros((3, 2)))
    assert kinds(look(folder)) == {("error", "mask of the wrong shape")}
    np.save(folder / "ignore.npy", np.full((2, 2), 255, np.uint8))
    assert kinds(look(folder)) == {("warning", "mask with values other than 0 and 1")}
    (folder / "ignore.npy").write_bytes(b"no array")
    assert kinds(look(folder)) == {("error", "unreadable mask")}


def test_the_record_of_the_preparation_is_compared(folder):
    root = folder.parent / "raw"
    train = RawSplit(["2.jpg", "a b/ü.jpg"], [["sea"], ["sky"]], missing=["gone.jpg"])
    test = RawSplit(["3.jpg", "4.jpg"], [["sea"], ["sky"]])
    write_prepared(folder, RawDataset(["sea", "sky"], {"train": train, "test": test}), source="mscoco", data_root=root)
    result = look(folder)
    assert result.ok
    assert places(result, "photo that the raw lists have and the disk has not") == ["train: gone.jpg"]
    assert places(result, "counts other than published")[0].startswith("mscoco has 2 labels, 2 training and 2 test")
    (folder / "test.txt").write_text("3.jpg\tsky\n4.jpg\tsea\n")
    assert places(look(folder), "labels, lists or mask changed since the preparation") == ["prepared.json"]
    (folder / "prepared.json").write_text(json.dumps({"source": "mscoco"}))
    assert ("warning", "unreadable record of the preparation") in kinds(look(folder))


def test_published_counts_are_compared():
    assert count_deviation("nuswide", 81, 125_449, 83_898) is None
    assert count_deviation("my photos", 1, 2, 3) is None
    text = count_deviation("nuswide", 81, 125_449, 80_000)
    assert "\n" not in text
    assert "80,000 test images; published are 81, 125,449 and 83,898" in text


def test_the_text_puts_errors_first_and_shortens_long_lists(folder):
    with open(folder / "train.txt", "a") as file:
        file.writelines(f"gone{number}.jpg\tsky\n" for number in range(30))
    with open(folder / "test.txt", "a") as file:
        file.write("2.jpg\n")
    lines = look(folder).text(limit=3).splitlines()
    assert lines[0].endswith("32 train, 3 test images, 2 labels; 4 photos decoded in full")
    assert lines[1] == "error: missing photo (30)"
    assert lines[2].startswith("    train.txt line 3: gone0.jpg")
    assert lines[5] == "    ... and 27 more"
    assert lines[6] == "warning: photo in both splits (1)"
    assert lines[-1] == "30 errors"


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        inspect(tmp_path / "nowhere")


def test_check_from_the_shell(tmp_path):
    """Exit status 0 and a list where all is well, 2 where something is unusable."""
    from conftest import run_sgre

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "label.txt").write_text("cat\n")
    for split, colour in (("train", "red"), ("test", "blue")):
        Image.new("RGB", (8, 8), colour).save(photos / f"{split}.png")
        (photos / f"{split}.txt").write_text(f"{split}.png\tcat\n")
    done = run_sgre("prepare", "--data", photos, "--check")
    assert done.returncode == 0, done.stderr
    (photos / "test.png").write_bytes(b"cut")
    done = run_sgre("prepare", "--data", photos, "--check")
    assert done.returncode == 2
    assert "test.png" in done.stdout
