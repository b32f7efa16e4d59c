"""An offline folder of executed notebooks as pages that lead to one another, with files beside them.

All addresses are relative and nothing outside the folder is needed, so it can be moved, zipped or put on a server.
`.stamps.json` says what each page was made from: a page is made again only where that has changed.
"""

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
from typing import Literal
from urllib.parse import quote

from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import fingerprint, open_atomic, write_json
from ..base.lock import folder_lock
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
    in the notebooks to the notebook of another page, or to a listed file, lead there; to any other local file, also
    one that cannot be read (a logged warning), they become plain text. What earlier builds left unused is removed.
    Raises UserError before anything is written where `out` holds something else or another process writes it, and
    where the start page cannot be read.
    """
    pages, sources = list(pages), {}
    for source, address in [*((page.notebook, page.address) for page in pages), *files]:
        parts = PurePosixPath(address).parts
        if not parts or parts[0] == "/" or any(part.startswith(".") for part in parts):
            raise ValueError(f"{address!r} is not an address inside the folder")
        if sources.setdefault(address, Path(source)) != Path(source):
            raise ValueError(f"{address!r} is the address of two")
    by_address = {page.address: page for page in pages}
    if "index.html" not in by_address:
        raise ValueError("one of the pages is index.html")
    folder = Path(out)
    make_folder(folder)
    with folder_lock(folder, "report"):
        return _Build(folder, by_address, sources).run(progress)


def make_folder(folder: Path) -> None:
    """Make the folder of a report; UserError where it is a file or holds anything else than an earlier report."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {folder} is a file, not a folder") from None
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made ({error.strerror})") from None
    found = {path.name for path in folder.iterdir()}
    if found - {".lock"} and STAMPS not in found:
        raise UserError(f"--out {folder} holds something else than a report: choose a new or an empty folder")


@cache
def _converter_mark() -> str:
    """Says which converter makes the pages: its files here, and the libraries that it rests on."""
    files = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".j2", ".css", ".json"))
    libraries = [version(name) for name in ("nbconvert", "latex2mathml")]
    return fingerprint([*(path.read_bytes() for path in files), *libraries])


class _Build:
    """One build: where everything comes from, and what each page was made from, now and by earlier builds.

    stamps: for each address that could be made its `mark` (what it is made from) and the `links` of its notebook with
    the addresses they were given. faults: why another could not be made.
    """

    def __init__(self, folder: Path, pages: dict[str, Page], sources: dict[str, Path]):
        self.folder, self.pages, self.sources = folder, pages, sources
        self.places = {source.resolve(): address for address, source in reversed(sources.items())}
        self.stamps: dict[str, dict] = {}
        self.faults: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self.stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
        self.saved = json.dumps(self.stamps)

    def run(self, progress: bool) -> Path:
        """Bring the folder up to date."""
        # Known from the start, so that what an interrupted build has made belongs to the report.
        self.stamps = {address: {} for address in self.sources} | self.stamps
        self._save()
        # Those that an earlier build could not make come first: what others have links to is then known.
        order = sorted(self.sources, key=lambda address: bool(self.stamps[address]))
        known = None
        try:
            while known != self.faults:  # again where a page cannot be linked to after all
                known = dict(self.faults)
                for address in tqdm(order, desc="pages", unit="page", leave=False, disable=not progress):
                    self.faults.pop(address, None)
                    try:
                        self._update(address)
                    except UserError as error:
                        self.faults[address], self.stamps[address] = str(error), {}
            for address, fault in self.faults.items():
                log.warning("%s is left out: %s", address, fault)
            if "index.html" in self.faults:
                raise UserError(self.faults["index.html"])
            for address in self.stamps.keys() - (self.sources.keys() - self.faults.keys()):
                path = self.folder / address
                if path.resolve().is_relative_to(self.folder.resolve()):
                    path.unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # it holds other files, as the folder of the report does
                        os.removedirs(path.parent)
            self.stamps = {address: self.stamps[address] for address in self.sources}
        finally:  # what an interrupted build has made need not be made again
            self._save()
        return self.folder / "index.html"

    def _save(self) -> None:
        if json.dumps(self.stamps) != self.saved:
            write_json(self.folder / STAMPS, self.stamps)
            self.saved = json.dumps(self.stamps)

    def _update(self, address: str) -> None:
        """Make a page or copy a file, unless what it is made from is as before and its links lead where they did."""
        source, target, page = self.sources[address], self.folder / address, self.pages.get(address)
        try:
            said = source.stat()
        except OSError as error:
            raise UserError(f"{source} cannot be read ({error.strerror})") from None
        parts = [str(source.resolve()), str(said.st_mtime_ns), str(said.st_size)]
        if page:
            trail = [(self._address(address, place), text) for place, text in page.trail]
            parts += [_converter_mark(), repr((page.title, page.code, trail))]
        mark, before, links = fingerprint(parts), self.stamps[address], {}
        same = before.get("mark") == mark and target.exists()
        if same and all(self._find(address, path) == found for path, found in before["links"].items()):
            return

        def find(path: str) -> str | None:
            links[path] = self._find(address, path)
            return links[path]

        if page:
            export_html(source, target, title=page.title, code=page.code, trail=trail, links=find)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(source, "rb") as file, open_atomic(target, "wb") as copy:
                shutil.copyfileobj(file, copy)
        self.stamps[address] = {"mark": mark, "links": links}

    def _find(self, address: str, path: str) -> str | None:
        """The address that a local link on a page gets; None where its target is not in the folder."""
        target = self.places.get((self.sources[address].parent / path).resolve())
        return target and self._address(address, target)

    def _address(self, address: str, target: str) -> str | None:
        """A target in the folder as seen from a page; None where it could not be made."""
        target, mark, anchor = target.partition("#")
        if target not in self.sources or target in self.faults:
            return None
        return quote(posixpath.relpath(target, posixpath.dirname(address) or ".")) + mark + anchor
