"""Protects NUS-WIDE preparation: Windows lists, label order, images left out, missing photos, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgre_lib.base.errors import UserError
from sgre_lib.datasets.nuswide import read_nuswide, read_truth
from sgre_lib.datasets.prepared import write_prepared

CONCEPTS = ["water", "airport", "book"]  # not in alphabetical order
# image: (list, its labels, whether the photo is there)
PHOTOS = {
    "zoo/3.jpg": ("Train", ["book", "water"], True),
    "actor/0001_2124494179.jpg": ("Test", ["airport"], True),
    "café au lait/1 2.jpg": ("Train", ["airport"], True),
    "actor/no label.jpg": ("Train", [], False),
    "actor/gone.jpg": ("Train", ["water"], False),
    "zoo/last.jpg": ("Test", ["water"], True),
}


def write_list(path: Path, names: list[str]) -> None:
    path.write_bytes("".join(name.replace("/", "\\") + "\r\n" for name in names).encode())


@pytest.fixture
def raw(tmp_path) -> Path:
    """NUS-WIDE/ below a folder with a space in its name."""
    raw = tmp_path / "raw data" / "NUS-WIDE"
    truth = raw / "Groundtruth" / "AllLabels"
    truth.mkdir(parents=True)
    (raw / "ImageList").mkdir()
    (raw / "Concepts81.txt").write_bytes("\r\n".join(CONCEPTS).encode() + b" \r\n")
    write_list(raw / "ImageList" / "Imagelist.txt", list(PHOTOS))
    for split in ("Train", "Test"):
        names = [name for name in PHOTOS if PHOTOS[name][0] == split]
        write_list(raw / "ImageList" / f"{split}Imagelist.txt", names[::-1])
    # One file as they come, one with CRLF, one with blanks and without a last line end.
    for concept, end in zip(CONCEPTS, ("\n", "\r\n", " \n"), strict=True):
        lines = [str(int(concept in labels)) for _, labels, _ in PHOTOS.values()]
        text = end.join(lines) + (end if concept != "book" else "")
        (truth / f"Labels_{concept}.txt").write_bytes(text.encode())
    for name, (_, _, there) in PHOTOS.items():
        photo = raw / "Flickr" / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        if there:
            photo.touch()
    return raw


def refusal(raw: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_nuswide(raw.parent, progress=False)
    return str(caught.value)


def test_labels_and_lists_are_read_as_the_rules_say(raw):
    dataset = read_nuswide(raw.parent, progress=False)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.labels == CONCEPTS
    assert train.names == ["NUS-WIDE/Flickr/café au lait/1 2.jpg", "NUS-WIDE/Flickr/zoo/3.jpg"]
    assert train.labels == [["airport"], ["water", "book"]]
    assert train.missing == ["NUS-WIDE/Flickr/actor/gone.jpg"]  # and not the image without a label
    assert test.names == ["NUS-WIDE/Flickr/zoo/last.jpg", "NUS-WIDE/Flickr/actor/0001_2124494179.jpg"]
    assert test.labels == [["water"], ["airport"]]
    assert test.missing == []


def test_the_prepared_folder_reads_back_and_finds_its_photos(raw, tmp_path):
    root = raw.parent
    prepared = write_prepared(tmp_path / "out", read_nuswide(root, progress=False), source="nuswide", data_root=root)
    split = prepared.split("train")
    assert split.targets.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert all(path.is_file() for path in split.paths)


@pytest.mark.parametrize("value", ["2", "-1", "", "1 0", "x", "01"])
def test_a_value_that_is_no_label_is_named_with_file_and_line(raw, value):
    path = raw / "Groundtruth" / "AllLabels" / "Labels_airport.txt"
    lines = path.read_bytes().split(b"\r\n")
    lines[2] = value.encode()
    path.write_bytes(b"\r\n".join(lines))
    assert refusal(raw) == f"{path} line 3: {value!r} is neither 0 nor 1"


@pytest.mark.parametrize(("lines", "count"), [(b"0\n1\n", 2), (b"0\n" * 7, 7)])
def test_another_number_of_lines_is_refused(raw, lines, count):
    path = raw / "Groundtruth" / "AllLabels" / "Labels_book.txt"
    path.write_bytes(lines)
    assert refusal(raw) == f"{path} has {count} lines, but Imagelist.txt names 6 images"


def test_the_compact_and_the_linewise_reading_agree(tmp_path):
    values = np.random.default_rng(0).integers(0, 2, 1000).astype(bool)
    path = tmp_path / "Labels_x.txt"
    for end in ("\n", "\r\n", "\t \r\n"):
        path.write_bytes("".join(f"{int(value)}{end}" for value in values).encode())
        assert np.array_equal(read_truth(path, 1000), values)


def test_wrong_lists_are_named_with_file_and_line(raw):
    lists = raw / "ImageList"
    train = lists / "TrainImagelist.txt"
    before = train.read_bytes()
    train.write_bytes(before + b"zoo\\3.jpg\r\n")
    assert refusal(raw) == f"image that is there twice: {train} lines 4 and 5: zoo\\3.jpg"
    train.write_bytes(before + b"zoo\\never seen.jpg\r\n")
    assert refusal(raw) == f"{train} line 5: zoo/never seen.jpg is not in {lists / 'Imagelist.txt'}"
    train.write_bytes(before + b"\r\nzoo\\last.jpg\r\n")
    assert refusal(raw) == f"empty image: {train} line 5"
    train.write_bytes(before + b"zoo\\last.jpg\r\n")
    assert refusal(raw) == f"{lists / 'TestImagelist.txt'} line 1: zoo/last.jpg is also in TrainImagelist.txt"
    train.write_bytes(b"\r\n")
    assert refusal(raw) == f"empty list: {train}"
    train.unlink()
    assert refusal(raw) == f"the list of images is missing: {train}"


def test_wrong_concepts_are_named_with_file_and_line(raw):
    path = raw / "Concepts81.txt"
    path.write_text("water\nbook\nwater\n")
    assert refusal(raw) == f"concept that is there twice: {path} lines 1 and 3: water"
    path.write_text("water\n\nbook\n")
    assert refusal(raw) == f"empty concept: {path} line 2"
    path.write_text("water\nvalley\n")
    assert refusal(raw) == f"the label file is missing: {raw / 'Groundtruth' / 'AllLabels' / 'Labels_valley.txt'}"


def test_a_tree_without_photos_is_refused_before_anything_is_read(tmp_path):
    assert "there is no folder" in refusal(tmp_path / "NUS-WIDE")


def test_progress_is_shown_only_when_asked_for(raw, capsys):
    read_nuswide(raw.parent, progress=False)
    assert capsys.readouterr().err == ""
    read_nuswide(raw.parent, progress=True)
    assert "NUS-WIDE labels: 100%" in capsys.readouterr().err
