"""Which files a path, a folder or a pattern names: the photos that `predict` labels."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import UserError

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm",
    ".pnm",
)  # fmt: skip
"""Endings of file names (in any case) that are photos in a folder or a pattern. A file given by name may have any."""

HEATMAP_SUFFIX = ".heatmap.png"  # of the figures of `predict`, which are never taken for photos


def find_photos(images: Sequence[str | os.PathLike] | str | os.PathLike) -> list[Path]:
    """The files that paths, folders and patterns name, in their order, each once.

    A folder stands for the photos in it at any depth, sorted by path; a pattern (`*`, `?`, `[...]`, `**` for folders at
    any depth) for the photos and folders that match, sorted. There, photos are told by SUFFIXES, and hidden files and
    folders and our own heatmap figures are left out. A name that exists is never a pattern. Where a backslash makes no
    name or pattern that matches, it is read as Windows writes paths.
    Raises UserError for what names no photo, and where no images are given.
    """
    given = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    if not given:
        raise UserError("no image is given: name files, folders or patterns such as 'photos/*.jpg'")
    found: list[Path] = []
    for name in map(os.fspath, given):
        photos = _expand(name) or _expand(name.replace("\\", "/"))
        if not photos:
            if name and os.path.isdir(os.path.expanduser(name)):
                what = f"folder {name} holds"
            elif glob.has_magic(name):
                what = f"pattern {name} matches"
            else:
                raise UserError(f"the image {name or repr(name)} is missing")
            raise UserError(f"the {what} no image ({', '.join(SUFFIXES[:6])}, ...)")
        found += photos
    return list(dict.fromkeys(found))


def _expand(name: str) -> list[Path]:
    """The photos that a path, folder or pattern stands for; none where it is no such thing."""
    path = Path(os.path.expanduser(name))
    if not name:  # pathlib's current folder, but most likely a variable of the shell's that is not set
        return []
    if os.path.exists(path):
        return _list_photos(path) if path.is_dir() else [path]
    # The part that exists as it stands is no pattern, whatever signs are in it.
    stem = next(parent for parent in path.parents if os.path.exists(parent))
    pattern = str(path.relative_to(stem))
    matches = glob.glob(pattern, root_dir=stem, recursive=True) if glob.has_magic(pattern) else []
    return [photo for match in sorted(stem / match for match in matches) for photo in _list_photos(match)]


def _list_photos(path: Path) -> list[Path]:
    """The photos in a folder at any depth, sorted, a link to a folder followed once; of a file that file, if a photo."""
    photos = [] if path.is_dir() else [path]
    seen = set()
    for here, folders, files in os.walk(path, followlinks=True):
        is_new = os.path.realpath(here) not in seen
        seen.add(os.path.realpath(here))
        folders[:] = [name for name in folders if is_new and not name.startswith(".")]
        photos += [Path(here, name) for name in files if is_new]
    return sorted(photo for photo in photos if _is_photo(photo.name.lower()))


def _is_photo(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.endswith(HEATMAP_SUFFIX) and not name.startswith(".")
