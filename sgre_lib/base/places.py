"""Where things are: the checkout, the folder that `data/` and `experiments/` are taken from, files that a setting names."""

import os
from pathlib import Path

from .errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The checkout that this package was imported from: its `notebooks/` and `experiments/tables/` belong together."""


def working_root() -> Path:
    """The folder that `data/` and `experiments/` are taken from.

    It is the nearest folder at or above the working directory that holds both `notebooks/` and `experiments/`, so that
    a notebook (whose kernel starts in `notebooks/`) and a shell at the top of the checkout mean the same folders;
    where there is none, it is the working directory.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "experiments").is_dir():
            return folder
    return here


def find_file(path: str | os.PathLike) -> Path:
    """A file that a setting names: as it stands, else (a relative path) below `working_root()`. It need not exist."""
    given = Path(path).expanduser()
    below = working_root() / given
    return below if not given.exists() and below.exists() else given


def check_out(path: str | os.PathLike) -> Path:
    """The path of a file that `--out` names, or UserError where no file can be written there."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"--out {path} is a folder")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: the folder does not exist")
    return path
