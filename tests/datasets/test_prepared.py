"""Protects the prepared form, the door for anybody's own photos: where images are found, and what a bad list says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sgre_lib import PreparedDataset, UserError


@pytest.fixture
def folder(tmp_path):
    """A hand-written prepared folder with two photos of its own, one with a space and an umlaut in its name."""
    own = tmp_path / "my photos"
    own.mkdir()
    for name in ("one.png", "zwei ü.png"):
        Image.new("RGB", (8, 8)).save(own / name)
    (own / "label.txt").write_text("cat\nbig dog\n", encoding="utf-8")
    (own / "train.txt").write_text("one.png\tcat,big dog\nzwei ü.png\t\n", encoding="utf-8")
    (own / "test.txt").write_text("one.png\r\nzwei ü.png\tcat\r\n", encoding="utf-8")
    return own


def test_reads_a_hand_written_folder(folder):
    prepared = PreparedDataset(folder)
    train, test = prepared.split("train"), prepared.split("test")
    assert prepared.labels == ["cat", "big dog"]
    assert train.targets.tolist() == [[1, 1], [0, 0]]
    assert test.targets.tolist() == [[0, 0], [1, 0]]  # no tab: no label
    assert test.names == ["one.png", "zwei ü.png"]
    assert all(path.exists() for path in train.paths + test.paths)


def test_relative_paths_are_taken_from_the_folder_and_then_from_the_data_root(folder, tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "sub" / "far.png")
    (folder / "test.txt").write_text("one.png\tcat\nsub/far.png\tcat\n")
    with pytest.raises(UserError) as error:
        PreparedDataset(folder).split("test")
    assert str(folder / "sub/far.png") in str(error.value)
    assert "data/raw/sub/far.png" in str(error.value)
    assert PreparedDataset(folder, root).split("test").paths[1] == root / "sub/far.png"
    monkeypatch.setenv("SGRE_DATA_ROOT", str(root))
    assert PreparedDataset(folder).split("test").paths == [folder / "one.png", root / "sub/far.png"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.txt", "one.png\tcat,wolf\n", r"label that label.txt does not have: .*train.txt line 1: 'wolf'"),
        ("train.txt", "", "empty list: .*train.txt"),
        ("train.txt", "one.png\tcat\n\tcat\n", "line without an image path: .*train.txt line 2"),
        ("label.txt", "cat\ncat\n", "label that is there twice: .*label.txt lines 1 and 2: cat"),
        ("label.txt", "cat\n\nbig dog\n", "empty label: .*label.txt line 2"),
        ("label.txt", "a,b\n", "unusable label: .*label.txt line 1: 'a,b'"),
    ],
)
def test_a_bad_list_is_named_with_its_line(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        PreparedDataset(folder).split("train")


def test_a_list_that_is_not_text(folder):
    (folder / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="train images cannot be read"):
        PreparedDataset(folder).split("train")


def test_mask_of_another_shape(folder):
    np.save(folder / "ignore.npy", np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"shape \(3, 2\), but test.txt and label.txt ask for \(2, 2\)"):
        PreparedDataset(folder).split("test")


def test_unknown_folder_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        PreparedDataset(tmp_path / "nowhere")
