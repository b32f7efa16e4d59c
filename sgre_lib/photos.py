"""Photos of a prepared split as batches of tensors, in an order that only (seed, epoch) decides."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from .cache import PixelCache
from .datasets.prepared import Split
from .errors import LoaderDied, UserError
from .transforms import IMAGENET_MEAN, IMAGENET_STD, TestTransform


def read_photo(path: str | Path) -> Image.Image:
    """The RGB image in a file, decoded in full; UserError naming the file where it is missing, cut off or no image."""
    try:
        with Image.open(path) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"the image {path} is missing") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"the image {path} cannot be read ({error})") from None


class PhotoDataset(Dataset):
    """(pixels (S, S, 3) uint8, targets (L), index) of a split; `move_pixels` makes a model's input of a batch.

    A key is an index, or (epoch, index) for a training image: with the seed it decides the augmentation. cache: what
    keeps the resized images; the pixels are the same with and without it.
    """

    def __init__(self, split: Split, transform: TestTransform, seed: int = 0, cache: PixelCache | None = None):
        self.paths = split.paths
        self.targets = torch.from_numpy(split.targets.astype(np.float32))
        self.transform, self.seed, self.cache = transform, seed, cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]):
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.cache is None:
            image = self._read(index)
        else:
            image = Image.fromarray(self.cache.read(index, lambda: self._read(index)))
        image = self.transform.vary(image, np.random.default_rng((self.seed, epoch, index)))
        return torch.from_numpy(np.array(image)), self.targets[index], index

    def _read(self, index: int) -> Image.Image:
        return self.transform.resize(read_photo(self.paths[index]))


def move_pixels(
    pixels: torch.Tensor, device: torch.device, normalise: bool, *, channels_last: bool = False
) -> torch.Tensor:
    """A loader's batch (B, S, S, 3) uint8 as a model's input on `device`: (B, 3, S, S) float32.

    On a CPU the values are those of `TestTransform.to_array` to the last bit. A quarter of the bytes is moved between
    processes and devices that way. channels_last: the memory order of the result, which then costs no reordering.
    """
    order = torch.channels_last if channels_last else torch.contiguous_format
    images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32, memory_format=order)
    # Tensors, not numbers: CUDA multiplies by the reciprocal of a number, which rounds otherwise.
    images /= torch.full((1, 1, 1, 1), 255.0, device=device)
    if normalise:
        mean, deviation = (
            torch.from_numpy(values).view(3, 1, 1).to(device) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        images.sub_(mean).div_(deviation)
    return images


class TrainingBatches:
    """A batch sampler: one process's share of every global batch of an epoch, as (epoch, index) keys.

    The order is a permutation drawn from (seed, epoch); the last, partial batch is kept. A global batch is cut into
    `world` contiguous shares as even as can be. A process that gets none of a small last batch is given its first
    image, which the trainer weighs by 0, since every process must take part in every step.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.count, self.batch_size, self.seed, self.rank, self.world = count, batch_size, seed, rank, world
        self.epoch, self.first = 1, 0

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch (from 1), and the batch to begin with: above 0 where a stopped epoch goes on."""
        self.epoch, self.first = epoch, first

    @property
    def batches_an_epoch(self) -> int:
        return -(-self.count // self.batch_size)

    def __len__(self) -> int:
        return self.batches_an_epoch - self.first

    def global_size(self, batch: int) -> int:
        """Images in a batch, over all processes."""
        return min(self.batch_size, self.count - batch * self.batch_size)

    def share(self, batch: int) -> int:
        """Images of a batch that belong to this process; 0 where the one it is given must not count."""
        size = self.global_size(batch)
        return size * (self.rank + 1) // self.world - size * self.rank // self.world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        for batch in range(self.first, self.batches_an_epoch):
            start, size = batch * self.batch_size, self.global_size(batch)
            begin = start + size * self.rank // self.world
            end = start + size * (self.rank + 1) // self.world
            yield [(self.epoch, int(i)) for i in (order[begin:end] if end > begin else order[start : start + 1])]


def worker_count(num_workers: int, processes: int = 1) -> int:
    """Loading processes for each training process: as asked, or (-1) the cores shared out, at most 8 each."""
    if num_workers >= 0:
        return num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(8, cores // processes))


def make_loader(dataset: PhotoDataset, workers: int, device: torch.device, **order) -> DataLoader:
    """A DataLoader that draws nothing from torch's global generator. order: `batch_sampler`, or `sampler`/`batch_size`."""
    more = (
        {"persistent_workers": True, "prefetch_factor": 4, "multiprocessing_context": _start_method()}
        if workers
        else {}
    )
    return DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
        worker_init_fn=_start_worker if workers else None,
        **more,
        **order,
    )


@contextlib.contextmanager
def naming_dead_loaders() -> Iterator[None]:
    """Raise LoaderDied where the system kills an image loading process inside the block.

    PyTorch notices by a signal: its RuntimeError comes up wherever the program is, not only at the loader.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LoaderDied(
            "an image loading process was killed, for want of memory perhaps: a smaller --num-workers may help"
        ) from None


def _start_method() -> str | None:
    # fork is quick to start and safe as long as a worker touches neither CUDA nor threads, which these do not.
    return "fork" if sys.platform == "linux" else None


def _start_worker(_: int) -> None:
    import signal

    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):
        # Launchers and terminals signal the whole process group. The trainer must outlive the signal to save its state,
        # and cannot where its loaders die of it; they end by themselves when the trainer has ended.
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle: it stops its workers itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the trainer's handler, which a forked worker inherits
