"""The cache of resized images, in memory or on the disk: after the first reading neither file nor decoder is needed.

What comes out is, byte for byte, what reading the photo anew would give. Each image has a stamp: size and time of its
file, and a checksum of the pixels. An image is taken from the cache only where all three fit, so a changed photo, a
half-written image (a killed process, a power cut) or one that another process is writing is read from its file and
stored again.
"""

import contextlib
import ctypes
import functools
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
"""To be raised where `PhotoTransform.resize` gives other pixels than before: cached ones are then made anew."""


def cache_folder() -> Path:
    """Where `--cache disk` keeps its files: `SGRE_CACHE`, else ~/.cache/sgre. It may be emptied between runs."""
    return Path(os.environ.get("SGRE_CACHE") or "~/.cache/sgre").expanduser()


class PixelCache:
    """The resized images (S, S, 3) uint8 of some photos, shared by every process that is given it.

    kind: `memory`, in blocks of shared memory, which are gone with the last process that has them, however that ends;
    or `disk`, in two memory-mapped files, which later runs and other processes share. Their name says which photos
    (paths, in order) at which size, and what decoded and resized them. UserError where they cannot be made.
    """

    def __init__(self, kind: str, paths: Sequence[Path], image_size: int):
        self.paths = paths
        # Pixels, and stamps that are zero where nothing is stored yet.
        self.layout = ((np.uint8, (len(paths), image_size, image_size, 3)), (np.int64, (len(paths), STAMP_FIELDS)))
        sizes = [np.dtype(number).itemsize * math.prod(shape) for number, shape in self.layout]
        if kind == "memory":
            # Taken here, whole: a machine that has not that much says so now and not after hours.
            self.stores = [multiprocessing.RawArray(ctypes.c_uint8, size) for size in sizes]
            return
        self.stores = _disk_files(paths, image_size)
        try:
            self.stores[0].parent.mkdir(parents=True, exist_ok=True)
            for file, size in zip(self.stores, sizes, strict=True):
                _reserve(file, size)
        except OSError as error:
            raise UserError(f"--cache disk: {self.stores[0].parent} cannot be used ({error})") from None

    def __getstate__(self) -> dict:
        # A process that is spawned maps the blocks or the files itself.
        return {name: value for name, value in self.__dict__.items() if name != "arrays"}

    @functools.cached_property
    def arrays(self) -> list[np.ndarray]:
        """Pixels (N, S, S, 3) uint8 and stamps (N, 3) int64, as this process sees them."""
        return [
            np.memmap(store, number, "r+", shape=shape)
            if isinstance(store, Path)
            else np.frombuffer(store, number).reshape(shape)
            for store, (number, shape) in zip(self.stores, self.layout, strict=True)
        ]

    def read(self, index: int, make: Callable[[], Image.Image]) -> np.ndarray:
        """An array of the caller's own with image `index`; `make` gives it where it is not, or no longer, in the cache."""
        pixels, stamps = self.arrays
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


def _disk_files(paths: Sequence[Path], image_size: int) -> list[Path]:
    decoders = (Image.__version__, features.version("libjpeg_turbo") or features.version("jpg") or "")
    key = fingerprint([RESIZE_VERSION, *decoders, str(image_size), *(os.path.abspath(path) for path in paths)])[:32]
    return [cache_folder() / f"{key}.{part}" for part in ("pixels", "stamps")]


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
    return None if kind == "none" else PixelCache(kind, paths, image_size)


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
        total, free = (f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB" for n in (total, free))
        raise UserError(f"--cache {kind} needs {total}{each}, {free} {where} are free")


def free_memory() -> int | None:
    """Bytes of shared memory that can still be taken: the machine's, the control groups', /dev/shm's. None: unknown."""
    found = [shutil.disk_usage("/dev/shm").free] if os.path.isdir("/dev/shm") else []
    groups = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, KeyError, ValueError):  # no Linux
        found.append(1024 * int(_read_pairs("/proc/meminfo", ":")["MemAvailable"].split()[0]))
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
