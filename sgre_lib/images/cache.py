"""The cache of resized images, in memory or on the disk: after the first reading neither file nor decoder is needed.

What comes out is, byte for byte, what reading the photo anew would give. Each image has a stamp: size and time of its
file, and a checksum of the pixels. An image is taken from the cache only where all three fit, so a changed photo, a
half-written image (a killed process, a power cut) or one that another process is writing is read from its file and
stored again.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, features

from ..base.errors import UserError
from ..base.files import fingerprint

STAMP_FIELDS = 3  # size and time of the photo's file, checksum of its pixels

RESIZE_VERSION = "1"
"""To be raised where `TestTransform.resize` gives other pixels than before: cached ones are then made anew."""


def cache_folder() -> Path:
    """Where `--cache disk` keeps its files: `SGRE_CACHE`, else ~/.cache/sgre. It may be emptied between runs."""
    return Path(os.environ.get("SGRE_CACHE") or "~/.cache/sgre").expanduser()


class PixelCache:
    """The resized images (S, S, 3) uint8 of some photos, shared by every process that is given it."""

    def __init__(self, paths: Sequence[Path], image_size: int):
        self.paths = paths
        # Pixels, and stamps that are zero where nothing is stored yet.
        self.shapes = ((len(paths), image_size, image_size, 3), (len(paths), STAMP_FIELDS))
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict:
        # A process that is spawned maps the block or the files itself.
        return self.__dict__ | {"_arrays": None}

    def read(self, index: int, make: Callable[[], Image.Image]) -> np.ndarray:
        """An array of the caller's own with image `index`; `make` gives it where it is not, or no longer, in the cache."""
        if self._arrays is None:
            self._arrays = self._map()
        pixels, stamps = self._arrays
        try:
            status = os.stat(self.paths[index])
        except OSError:
            return np.array(make())  # which says what is wrong with the file
        about = (status.st_size, status.st_mtime_ns)
        if tuple(stamps[index, :2]) == about:
            kept = pixels[index].copy()
            if zlib.crc32(kept) == stamps[index, 2]:
                return kept
        made = np.array(make())
        stamps[index] = 0
        pixels[index] = made
        stamps[index] = (*about, zlib.crc32(made))
        return made

    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, S, S, 3) uint8 and stamps (N, 3) int64, as this process sees them."""
        raise NotImplementedError


class MemoryCache(PixelCache):
    """A cache in one block of shared memory, which is gone with the last process that has it, however that ends."""

    def __init__(self, paths: Sequence[Path], image_size: int):
        super().__init__(paths, image_size)
        # Taken here, whole: a machine that has not that much says so now and not after hours.
        kinds = (ctypes.c_uint8, ctypes.c_int64)
        self._blocks = [multiprocessing.RawArray(k, math.prod(s)) for k, s in zip(kinds, self.shapes, strict=True)]

    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        pixels, stamps = (np.ctypeslib.as_array(b).reshape(s) for b, s in zip(self._blocks, self.shapes, strict=True))
        return pixels, stamps


class DiskCache(PixelCache):
    """A cache in two memory-mapped files, which later runs and other processes share.

    Their name says which photos (paths, in order) at which size, and what decoded and resized them.
    """

    def __init__(self, paths: Sequence[Path], image_size: int):
        super().__init__(paths, image_size)
        self.files = _disk_files(paths, image_size)
        try:
            self.files[0].parent.mkdir(parents=True, exist_ok=True)
            for file, shape, item in zip(self.files, self.shapes, (1, 8), strict=True):
                _reserve(file, item * math.prod(shape))
        except OSError as error:
            raise UserError(f"--cache disk: {self.files[0].parent} cannot be used ({error})") from None

    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        pixels, stamps = self.shapes
        return (
            np.memmap(self.files[0], np.uint8, "r+", shape=pixels),
            np.memmap(self.files[1], np.int64, "r+", shape=stamps),
        )


def _disk_files(paths: Sequence[Path], image_size: int) -> tuple[Path, Path]:
    decoders = (Image.__version__, features.version("libjpeg_turbo") or features.version("jpg") or "")
    key = fingerprint([RESIZE_VERSION, *decoders, str(image_size), *(os.path.abspath(path) for path in paths)])[:32]
    return cache_folder() / f"{key}.pixels", cache_folder() / f"{key}.stamps"


def _reserve(path: Path, size: int) -> None:
    """Make a file `size` bytes long, if it is not, with its space set aside; what is in it stays."""
    with open(path, "ab") as file:
        if os.fstat(file.fileno()).st_size >= size:
            return
        if hasattr(os, "posix_fallocate"):
            # Writing to a mapped file without its space would, on a disk that has filled up, kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def open_cache(kind: str, paths: Sequence[Path], image_size: int) -> PixelCache | None:
    """The cache that `MachineSettings.cache` names, or None. What it needs is checked by `check_cache_room`."""
    kinds = {"memory": MemoryCache, "disk": DiskCache}
    return None if kind == "none" else kinds[kind](paths, image_size)


def check_cache_room(kind: str, splits: Sequence[Sequence[Path]], image_size: int, copies: int = 1) -> None:
    """UserError where memory or disk has no room for the caches of `splits`; nothing is written.

    copies: training processes on this machine. Each has a memory cache of its own; a disk cache they share.
    """
    if kind == "none":
        return
    needed = [len(paths) * (image_size**2 * 3 + 8 * STAMP_FIELDS) for paths in splits]
    if kind == "memory":
        where, free, total = "of memory", free_memory(), sum(needed) * copies
    else:
        folder = cache_folder()
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"--cache disk: nothing can be written in {existing} (SGRE_CACHE names another folder)")
        there = (_disk_files(paths, image_size)[0].exists() for paths in splits)
        total = sum(size for size, is_there in zip(needed, there, strict=True) if not is_there)
        where, free = f"in {folder}", shutil.disk_usage(existing).free
    if free is not None and total > free:
        each = f" for {copies} processes" if kind == "memory" and copies > 1 else ""
        raise UserError(f"--cache {kind} needs {_in_words(total)}{each}, {_in_words(free)} {where} are free")


def free_memory() -> int | None:
    """Bytes of shared memory that can still be taken: the machine's, the control groups', /dev/shm's. None: unknown."""
    found = [shutil.disk_usage("/dev/shm").free] if os.path.isdir("/dev/shm") else []
    with contextlib.suppress(OSError, KeyError, ValueError):  # no Linux
        found.append(1024 * int(_read_pairs("/proc/meminfo", ":")["MemAvailable"].split()[0]))
    groups = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, KeyError, ValueError):
        groups = groups / _read_pairs("/proc/self/cgroup", "::")["0"].strip().lstrip("/")
    for group in (groups, *groups.parents):
        # "max", which is no number, stands for no limit. Files that the kernel keeps at hand make room when asked to.
        with contextlib.suppress(OSError, KeyError, ValueError):
            limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            found.append(limit - used + int(_read_pairs(group / "memory.stat", " ")["inactive_file"]))
    return max(0, min(found)) if found else None


def _read_pairs(path: str | Path, separator: str) -> dict[str, str]:
    """The `name<separator>value` lines of a file of the kernel's."""
    return dict(line.split(separator, 1) for line in Path(path).read_text().splitlines() if separator in line)


def _in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
