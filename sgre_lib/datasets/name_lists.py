"""Files of names, one a line (labels, concepts, images): read and checked line by line, with what is wrong reported."""

from collections.abc import Callable, Container
from pathlib import Path

from ..base.errors import UserError
from ..base.files import read_lines

Report = Callable[[str, str, object], None]
"""Takes a finding: severity, what it is (the same words for all of a kind), and where (or the UserError that says it).

Severities: `error` (the dataset cannot be used as it is), `warning` (it can, but results may mislead) and `note`.
"""


def refuse(severity: str, what: str, where: object) -> None:
    """The report of whoever needs the data: an error is raised as UserError, anything less passes."""
    if severity == "error":
        raise where if isinstance(where, UserError) else UserError(f"{what}: {where}")


def read_list_lines(path: Path, what: str, report: Report = refuse) -> list[str]:
    """The lines of a list; none where it is unreadable, which is reported, as an empty list is."""
    try:
        lines = read_lines(path, what)
    except UserError as error:
        report("error", "unreadable list", error)
        return []
    if not lines:
        report("error", "empty list", path)
    return lines


def read_names(path: Path, what: str, forbidden: str = "\t", report: Report = refuse) -> list[str]:
    """The names of a file, the faulty ones among them: empty, repeated, or with a character that is `forbidden`.

    what: what a name is, for the messages.
    """
    names = [line.strip() for line in read_list_lines(path, f"the list of {what}s", report)]
    line_of: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            report("error", f"empty {what}", f"{path} line {number}")
        elif set(name) & set(forbidden):
            report("error", f"unusable {what}", f"{path} line {number}: {name!r} has one of {forbidden!r}")
        elif line_of.setdefault(name, number) != number:
            report("error", f"{what} that is there twice", f"{path} lines {line_of[name]} and {number}: {name}")
    return names


def read_image_lists(
    paths: dict[str, Path], known: Container[str] | None = None, known_path: Path | None = None
) -> dict[str, list[str]]:
    """The image names of each split's raw list, with `/` where a list has a backslash.

    Raises UserError for a faulty name (see `read_names`), for one that two splits have, and for one that is not in
    `known`. known_path: the file that `known` was read from, for the message.
    """
    lists: dict[str, list[str]] = {}
    listed: dict[str, str] = {}  # image -> the list that it was seen in
    for split, path in paths.items():
        lists[split] = [name.replace("\\", "/") for name in read_names(path, "image")]
        for number, name in enumerate(lists[split], 1):
            if known is not None and name not in known:
                raise UserError(f"{path} line {number}: {name} is not in {known_path}")
            if listed.setdefault(name, path.name) != path.name:
                raise UserError(f"{path} line {number}: {name} is also in {listed[name]}")
    return lists
