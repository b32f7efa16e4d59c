"""Images a second of the input pipeline, ours against the one that most repositories have, written literally.

    python tests/benchmarks/input.py [--repeats N] [--quick]

Plain: Pillow opens the photo, torchvision resizes it, makes floats of it and normalises them, image by image in the
loading process. Ours hands over bytes, of which the device makes the floats of a whole batch; "and floats" counts that
step too, on the CPU. The augmentation is the same code with the same draws, and the results are compared before anything
is timed. Every pipeline is run in turn, several times; what is printed are medians. "one core": the loading process and
the reader of its batches share it. Photos: those of SGRE_SHARED_DATA (COCO's) where that is set, else drawn ones of
their size. Writes experiments/benchmarks/input.csv.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from timing import write_rows
from torch.utils.data import DataLoader
from torchvision import transforms

from sgre_lib.datasets.prepared import Split
from sgre_lib.images.cache import open_cache
from sgre_lib.images.dataloader import PhotoDataset, make_loader, move_pixels, worker_count
from sgre_lib.images.sampler import TrainingBatches
from sgre_lib.images.transforms import IMAGENET_MEAN, IMAGENET_STD, PhotoTransform

SIDE, BATCH, DRAWN = 448, 32, 200
CPU = torch.device("cpu")


class PlainDataset(PhotoDataset):
    """(pixels (3, S, S) float32, targets, index), each image made ready in the loading process."""

    def __init__(self, split: Split, transform: PhotoTransform):
        super().__init__(split, transform)
        self.resize = transforms.Resize((SIDE, SIDE))
        self.finish = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN.tolist(), IMAGENET_STD.tolist())]
        )

    def __getitem__(self, key):
        epoch, index = key
        with open(self.paths[index], "rb") as file:
            image = self.resize(Image.open(file).convert("RGB"))
        image = self.transform.vary(image, np.random.default_rng((self.seed, epoch, index)))
        return self.finish(image), self.targets[index], index


def find_photos(folder: Path) -> list[Path]:
    """COCO's photos below SGRE_SHARED_DATA, else drawn ones in `folder`."""
    shared = os.environ.get("SGRE_SHARED_DATA")
    found = sorted(Path(shared).glob("MSCOCO/*2014/*.jpg"))[:DRAWN] if shared else []
    return found or [draw_photo(folder / f"{number:03}.jpg", number) for number in range(DRAWN)]


def draw_photo(path: Path, number: int) -> Path:
    """A 640 x 480 JPEG of about 150 kB: blotches of all sizes over a gradient."""
    rng = np.random.default_rng(number)
    picture = np.linspace(40, 200, 640)[None, :, None] * np.ones((480, 1, 3))
    for size in (4, 16, 64, 640):
        blotches = Image.fromarray(rng.integers(256, size=(size * 3 // 4, size, 3), dtype=np.uint8))
        picture += 0.25 * (np.asarray(blotches.resize((640, 480), Image.Resampling.BICUBIC), np.float64) - 128)
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))
    image.save(path, quality=92)
    return path


def make_pipelines(split: Split, transform: PhotoTransform) -> dict[str, tuple[PhotoDataset, Callable]]:
    """Name -> (dataset, what the reader does with a batch)."""

    def take(pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def make_floats(pixels: torch.Tensor) -> torch.Tensor:
        return move_pixels(pixels, CPU, True)

    cached = {
        f"ours, {kind} cache": (PhotoDataset(split, transform, cache=open_cache(kind, split.paths, SIDE)), take)
        for kind in ("memory", "disk")
    }
    ours = PhotoDataset(split, transform)
    plain = PlainDataset(split, transform)
    return {"plain": (plain, take), "ours": (ours, take), "ours, and floats": (ours, make_floats)} | cached


def check_equal(pipelines: dict[str, tuple[PhotoDataset, Callable]]) -> None:
    """Refuse to time pipelines that differ in what they give."""
    expected = torch.stack([pipelines["plain"][0][1, index][0] for index in range(8)])
    for name, (dataset, _) in pipelines.items():
        if name != "plain":
            pixels = move_pixels(torch.stack([dataset[1, index][0] for index in range(8)]), CPU, True)
            assert torch.allclose(pixels, expected, rtol=0, atol=1e-6), name


def read_epoch(loader: DataLoader, consume: Callable, epoch: int) -> float:
    """Images a second of one epoch."""
    loader.batch_sampler.set_epoch(epoch)
    started = time.perf_counter()
    count = sum(len(consume(pixels)) for pixels, _, _ in loader)
    return count / (time.perf_counter() - started)


def time_pipelines(pipelines: dict, workers: int, repeats: int) -> dict[str, float]:
    """Median images a second of each, run in turn; the first epoch starts the processes and fills the caches."""
    loaders = {
        name: make_loader(dataset, workers, CPU, batch_sampler=TrainingBatches(len(dataset), BATCH, 0))
        for name, (dataset, _) in pipelines.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for number in range(repeats + 1):
        for name, loader in loaders.items():
            rate = read_epoch(loader, pipelines[name][1], 1 + number)
            if number:
                rates[name].append(rate)
    return {name: statistics.median(found) for name, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few photos, once; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SGRE_CACHE"] = folder
        paths = find_photos(Path(folder))[: 16 if options.quick else None]
        split = Split([path.name for path in paths], paths, np.zeros((len(paths), 80), np.uint8))
        size = statistics.mean(path.stat().st_size for path in paths) / 1000
        print(f"{len(paths)} photos of {size:.0f} kB on average, to {SIDE} x {SIDE}; images a second")
        for name, transform in (
            ("full augmentation", PhotoTransform(SIDE, augment="full")),
            ("test", PhotoTransform(SIDE)),
        ):
            pipelines = make_pipelines(split, transform)
            check_equal(pipelines)
            for where, used in (("one core", {min(cores)}), (f"{len(cores)} cores", cores)):
                os.sched_setaffinity(0, used)  # loading processes inherit it
                workers = 1 if len(used) == 1 else worker_count(-1)
                rates = time_pipelines(pipelines, workers, 1 if options.quick else options.repeats)
                os.sched_setaffinity(0, cores)
                for pipeline, rate in rates.items():
                    rows.append([name, where, pipeline, rate, rate / rates["plain"]])
                    print(f"{name:18} {where:9} {pipeline:20} {rate:8.1f}  x{rate / rates['plain']:.2f}")
    if not options.quick:
        write_rows("input", ["transform", "where", "pipeline", "images a second", "times plain"], rows)


if __name__ == "__main__":
    main()
