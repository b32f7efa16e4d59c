"""Raw lists of images, a path a line, as NUS-WIDE and VG500 have them; checked line by line."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from ..base.errors import UserError
from ..base.files import read_lines


def read_image_list(path: Path) -> list[str]:
    """The image paths of a list, one a line, with `/` where the list has a backslash.

    Raises UserError, naming the line, for an empty line, a tab in a name and a name that is there twice.
    """
    names = [line.strip().replace("\\", "/") for line in read_lines(path, "the image list")]
    return check_names(path, names, "\t", "image", "an image's path")


def check_names(path: Path, names: list[str], forbidden: str, what: str, form: str) -> list[str]:
    """The lines of a file of names, or UserError, naming the line, for one that is empty, repeated or unusable.

    forbidden: characters that no name may have. what, form: what a name is, for the message.
    """
    line_of: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name or set(name) & set(forbidden):
            raise UserError(f"{path} line {number}: {name!r} is not {form}")
        if line_of.setdefault(name, number) != number:
            raise UserError(f"{path} line {number}: {name} is also on line {line_of[name]}")
    if not names:
        raise UserError(f"{path} names no {what}")
    return names


def read_split_lists(paths: dict[str, Path], known: Container[str], known_path: Path) -> dict[str, list[str]]:
    """The image paths of each split's list; UserError for one that is not in `known` or that two splits have.

    known_path: the file that `known` was read from, for the message.
    """
    lists = {split: read_image_list(path) for split, path in paths.items()}
    listed: dict[str, str] = {}  # image -> the list that it was seen in
    for split, path in paths.items():
        for number, name in enumerate(lists[split], 1):
            if name not in known:
                raise UserError(f"{path} line {number}: {name} is not in {known_path}")
            if listed.setdefault(name, path.name) != path.name:
                raise UserError(f"{path} line {number}: {name} is also in {listed[name]}")
    return lists
