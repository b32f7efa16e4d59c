"""Photos of a prepared split as batches of tensors: the Dataset, the DataLoader and its workers."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..base.errors import LoaderDied
from ..datasets.prepared import Split
from .cache import PixelCache
from .reading import read_photo
from .transforms import IMAGENET_MEAN, IMAGENET_STD, PhotoTransform


class PhotoDataset(Dataset):
    """(pixels (S, S, 3) uint8, targets (L), index) of a split; `move_pixels` makes a model's input of a batch.

    A key is an index, or (epoch, index) for a training image: with the seed it decides the augmentation. cache: what
    keeps the resized images; the pixels are the same with and without it.
    """

    def __init__(self, split: Split, transform: PhotoTransform, seed: int = 0, cache: PixelCache | None = None):
        self.paths = split.paths
        self.targets = torch.from_numpy(split.targets.astype(np.float32))
        self.transform, self.seed, self.cache = transform, seed, cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, int]:
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

    On a CPU the values are those of `PhotoTransform.to_array` to the last bit. A quarter of the bytes is moved between
    processes and devices that way. channels_last: the memory order of the result, which then costs no reordering.
    """
    order = torch.channels_last if channels_last else torch.contiguous_format
    images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32, memory_format=order)
    # Tensors, not numbers: CUDA multiplies by the reciprocal of a number, which rounds otherwise.
    images /= torch.full((1, 1, 1, 1), 255.0, device=device)
    if normalise:
        mean, deviation = (torch.from_numpy(x).view(3, 1, 1).to(device) for x in (IMAGENET_MEAN, IMAGENET_STD))
        images.sub_(mean).div_(deviation)
    return images


def worker_count(num_workers: int, processes: int = 1) -> int:
    """DataLoader workers for each training process: as asked, or (-1) the cores shared out, at most 8 each."""
    if num_workers >= 0:
        return num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(8, cores // processes))


def make_loader(dataset: PhotoDataset, workers: int, device: torch.device, **order: Any) -> DataLoader:
    """A DataLoader that draws nothing from torch's global generator. order: `batch_sampler`, or `sampler`/`batch_size`."""
    if workers:
        order |= {"num_workers": workers, "persistent_workers": True, "prefetch_factor": 4}
        # fork is quick to start, and safe as long as a worker touches neither CUDA nor threads, which these do not.
        order |= {"multiprocessing_context": "fork" if sys.platform == "linux" else None}
    pinned, generator = device.type == "cuda", torch.Generator()
    return DataLoader(dataset, pin_memory=pinned, generator=generator, worker_init_fn=_start_worker, **order)


@contextlib.contextmanager
def naming_dead_loaders() -> Iterator[None]:
    """Raise LoaderDied where the system kills a DataLoader worker inside the block.

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


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):
        # Launchers and terminals signal the whole process group. The trainer must outlive the signal to save its state,
        # and cannot where its loaders die of it; they end by themselves when the trainer has ended.
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle: it stops its workers itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the trainer's handler, which a forked worker inherits
