"""Files that are either whole or absent, text and arrays read with an error that names the file, fingerprints."""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears under `path` only when the block ends without an error.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and take the place of `path` in one
    step: a killed process or a full disk leaves the old file as it was.
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def keep_previous(path: str | os.PathLike, previous: str | os.PathLike) -> None:
    """Let `previous` be what `path` is now, at no moment leaving neither; nothing to do where there is no `path`."""
    path, previous = Path(path), Path(previous)
    if not path.exists():
        return
    link = previous.with_name(f".{previous.name}.part")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment only `previous` is there
        os.replace(path, previous)
    else:
        os.replace(link, previous)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write a UTF-8 text file atomically and return its path."""
    with open_atomic(path) as file:
        file.write(text)
    return Path(path)


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """Write strict JSON atomically; a float that JSON cannot say (NaN, infinity) becomes null."""
    return write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """`value` with arrays and numpy numbers as lists and numbers, paths as text, and non-finite floats as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]], digits: int | None = None) -> str:
    """CSV text with a header line; floats are rounded to `digits` where that is given."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    if digits is not None:
        rows = ([round(x, digits) if isinstance(x, float) else x for x in row] for row in rows)
    writer.writerows(rows)
    return text.getvalue()


def write_array(path: str | os.PathLike, array: np.ndarray) -> Path:
    """Write a `.npy` file atomically."""
    with open_atomic(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
    return Path(path)


def read_array(path: str | os.PathLike) -> np.ndarray:
    """The array of a `.npy` file; UserError where it is not one that can be read without running code."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a readable .npy array ({error})") from None


def read_toml(path: str | os.PathLike, what: str = "file") -> dict[str, Any]:
    """The content of a TOML file. Raises UserError where there is none or it is not TOML. what: the file, in words."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read: {error.strerror}") from None


def read_lines(path: str | os.PathLike, what: str) -> list[str]:
    """The lines of a UTF-8 text file (LF or CRLF), without empty ones at the end.

    Raises UserError, naming `what` the file is, where it is missing or is not UTF-8 text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"{what} is missing: {path}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{what} cannot be read: {path} ({error})") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def fingerprint(parts: Iterable[bytes | str]) -> str:
    """A SHA-256 over the parts in order, as 64 hexadecimal digits; where one part ends is part of what is hashed."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
