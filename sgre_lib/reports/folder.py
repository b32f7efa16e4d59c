"""An offline folder of executed notebooks as pages that lead to one another, with files beside them.

All addresses are relative and nothing outside the folder is needed, so it can be moved, zipped or put on a server.
`.stamps.json` says what each page was made from: a page is made again only where that has changed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import posixpath
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import fingerprint, folder_lock, open_atomic, write_json
from .convert import export_html

log = logging.getLogger(__name__)

STAMPS = ".stamps.json"


@dataclass(frozen=True)
class Page:
    """An executed notebook and the address of its page in the folder; the rest is as in `convert.export_html`.

    The addresses of `trail` are inside the folder too; they may end in an anchor.
    """

    notebook: Path
    address: str
    title: str | None = None
    code: Literal["folded", "hidden"] = "folded"
    trail: Sequence[tuple[str, str]] = ()


def write_folder(
    out: str | os.PathLike,
    pages: Iterable[Page],
    files: Iterable[tuple[str | os.PathLike, str]] = (),
    *,
    progress: bool = True,
) -> Path:
    """Write a folder of pages and files, or bring an earlier one up to date, and return the path of its index.html.

    files: pairs of a file to copy and its address. Addresses are relative POSIX paths; one page is `index.html`. Links
    in the notebooks to the notebook of another page, or to a listed file, lead there; to any other local file they
    become plain text. What earlier builds left and is not used any more is removed. A notebook that cannot be read, or
    a file that is missing, is logged as a warning and links to it become plain text.
    Raises UserError before anything is written where `out` holds something else, and where another process writes it
    or the start page cannot be read.
    """
    pages = list(pages)
    by_address = {page.address: page for page in pages}
    places = [*((page.notebook, page.address) for page in pages), *files]
    sources: dict[str, Path] = {}
    for source, address in places:
        parts = PurePosixPath(address).parts
        if not parts or parts[0] == "/" or any(part.startswith(".") for part in parts):
            raise ValueError(f"{address!r} is not an address inside the folder")
        if sources.setdefault(address, Path(source)) != Path(source):
            raise ValueError(f"{address!r} is the address of two")
    if "index.html" not in by_address:
        raise ValueError("one of the pages is index.html")
    folder = Path(out)
    make_folder(folder)
    with folder_lock(folder, "report"):
        return _Build(folder, by_address, sources).run(progress)


def make_folder(folder: Path) -> None:
    """Make the folder of a report; UserError where it is a file or holds anything else than an earlier report."""
    if folder.is_dir():
        others = [path.name for path in folder.iterdir() if path.name != ".lock"]
        if others and STAMPS not in others:
            raise UserError(f"--out {folder} holds something else than a report: choose a new or an empty folder")
    elif folder.exists():
        raise UserError(f"--out {folder} is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made ({error.strerror})") from None


@cache
def _converter_mark() -> str:
    """Says which converter makes the pages: its files here, and the libraries that it rests on."""
    files = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".j2", ".css", ".json"))
    libraries = [version(name) for name in ("nbconvert", "latex2mathml")]
    return fingerprint([*(path.read_bytes() for path in files), *libraries])


class _Build:
    """One build: where everything comes from, and what each page was made from, now and by earlier builds.

    stamps: for each address its `mark` (what it is made from), the `links` of its notebook with the addresses they were
    given, and, where it could not be made, the reason as `fault`.
    """

    def __init__(self, folder: Path, pages: dict[str, Page], sources: dict[str, Path]):
        self.folder, self.pages, self.sources = folder, pages, sources
        self.places = {source.resolve(): address for address, source in reversed(sources.items())}
        self.stamps: dict[str, dict] = {}
        with contextlib.suppress(OSError, ValueError):
            self.stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
        self.before = json.dumps(self.stamps)

    def run(self, progress: bool) -> Path:
        """Bring the folder up to date."""
        # Known from the start, so that what an interrupted build has made belongs to the report.
        self.stamps = {address: {} for address in self.sources} | self.stamps
        self._save()
        try:
            faults = None
            while faults != (faults := self._faults()):  # again where a page cannot be linked to after all
                for address in tqdm(self.sources, desc="pages", unit="page", leave=False, disable=not progress):
                    self._update(address)
        finally:  # what an interrupted build has made need not be made again
            self._save()
        for address, fault in faults.items():
            log.warning("%s is left out: %s", address, fault)
        if "index.html" in faults:
            raise UserError(faults["index.html"])
        self._remove_unused(kept=self.sources.keys() - faults.keys())
        self.stamps = {address: self.stamps[address] for address in self.sources}
        self._save()
        return self.folder / "index.html"

    def _save(self) -> None:
        if json.dumps(self.stamps) != self.before:
            write_json(self.folder / STAMPS, self.stamps)
            self.before = json.dumps(self.stamps)

    def _faults(self) -> dict[str, str]:
        return {address: fault for address in self.sources if (fault := self.stamps[address].get("fault"))}

    def _update(self, address: str) -> None:
        """Make a page or copy a file, unless what it is made from is as before."""
        source = self.sources[address]
        try:
            said = source.stat()
        except OSError as error:
            self.stamps[address] = {"fault": f"{source} cannot be read ({error.strerror})"}
            return
        mark = [str(source.resolve()), said.st_mtime_ns, said.st_size]
        if page := self.pages.get(address):
            mark += [_converter_mark(), page.title, page.code, self._trail(page)]
        mark = fingerprint([json.dumps(mark)])
        if not self._is_made(address, mark):
            self.stamps[address] = {"mark": mark, **self._make(address)}

    def _is_made(self, address: str, mark: str) -> bool:
        """Whether the page is there, made from the same, and its links still lead where they did."""
        stamp = self.stamps[address]
        if stamp.get("mark") != mark or "fault" in stamp:
            return stamp.get("mark") == mark
        links = stamp["links"].items()
        return (self.folder / address).exists() and all(self._find(address, path) == found for path, found in links)

    def _make(self, address: str) -> dict[str, Any]:
        """Write one page or file; returns what its stamp says besides the mark."""
        source, target, links = self.sources[address], self.folder / address, {}
        if not (page := self.pages.get(address)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(source, "rb") as file, open_atomic(target, "wb") as copy:
                shutil.copyfileobj(file, copy)
            return {"links": links}

        def find(path: str) -> str | None:
            links[path] = self._find(address, path)
            return links[path]

        try:
            export_html(source, target, title=page.title, code=page.code, trail=self._trail(page), links=find)
        except UserError as error:
            return {"fault": str(error)}
        return {"links": links}

    def _trail(self, page: Page) -> list[tuple[str | None, str]]:
        return [(self._address(page.address, target), text) for target, text in page.trail]

    def _find(self, address: str, path: str) -> str | None:
        """The address that a local link on a page gets; None where its target is not in the folder."""
        target = self.places.get((self.sources[address].parent / path).resolve())
        return target and self._address(address, target)

    def _address(self, address: str, target: str) -> str | None:
        """A target in the folder as seen from a page; None where it could not be made."""
        target, mark, anchor = target.partition("#")
        if target not in self.sources or "fault" in self.stamps[target]:
            return None
        return quote(posixpath.relpath(target, posixpath.dirname(address) or ".")) + mark + anchor

    def _remove_unused(self, kept: set[str]) -> None:
        for address in self.stamps.keys() - kept:
            path = self.folder / address
            if path.resolve().is_relative_to(self.folder.resolve()):
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds other files
                    for parent in path.relative_to(self.folder).parents[:-1]:
                        (self.folder / parent).rmdir()
