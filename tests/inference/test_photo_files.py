"""Protects which files count as photos: folders, patterns, odd names, and what names none."""

from __future__ import annotations

import pytest

from sgre_lib import UserError
from sgre_lib.inference.photo_files import find_photos


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_stands_for_its_photos(photos):
    assert names(find_photos(photos)) == ["a ü.JPG", "b.jpg", "猫 $1$.jpeg"]
    assert names(find_photos([photos / "b.jpg", photos])) == ["b.jpg", "a ü.JPG", "猫 $1$.jpeg"]  # each once


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("my photos/*", ["a ü.JPG", "b.jpg", "猫 $1$.jpeg"]),  # a folder that matches stands for its photos
        ("my photos/?.jp*g", ["b.jpg"]),
        ("my photos/**/*.jp*g", ["b.jpg", "猫 $1$.jpeg"]),
        (r"my photos\[ab]*", ["a ü.JPG", "b.jpg"]),  # as Windows writes it
        (r"my photos\b.jpg", ["b.jpg"]),
        ("my photos/Жилет [1]/*", ["猫 $1$.jpeg"]),  # brackets of a folder that exists are no pattern
        ("my photos/Жилет [1]", ["猫 $1$.jpeg"]),
        ("my photos/notes.txt", ["notes.txt"]),  # a file given by name is taken at its word
    ],
)
def test_patterns(photos, pattern, found, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert names(find_photos(pattern)) == found


def test_a_link_back_to_its_own_folder_ends(photos):
    (photos / "again").symlink_to(photos, target_is_directory=True)
    assert names(find_photos(photos)) == ["a ü.JPG", "b.jpg", "猫 $1$.jpeg"]


@pytest.mark.parametrize("name", ["", "a\0b.jpg", "x" * 5000, "~no-such-user/*.jpg", "*" * 300, "[", "none/**/*"])
def test_a_name_of_nothing_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"missing|matches no image"):
        find_photos([name])


def test_no_name_at_all_is_refused():
    with pytest.raises(UserError, match="no image is given"):
        find_photos([])
