"""A model's outputs on photos, a batch at a time; its alignment maps and its average correlation."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ..base.errors import UserError
from ..base.settings import TrainSettings
from ..datasets.prepared import Split
from ..images.dataloader import PhotoDataset, make_loader, move_pixels, worker_count
from ..images.transforms import make_transform
from ..model.build import PatchModel
from ..model.precision import autocast


def check_alignment(settings: TrainSettings, what: str | os.PathLike) -> None:
    """UserError where a model aligns no label with patches. what: how the line names the model."""
    if settings.model == "mlic" and settings.branches == "patch":
        raise UserError(f"{what} has no object branch (branches: patch), so it aligns no label with patches")


@torch.inference_mode()
def run_model(
    model: PatchModel,
    settings: TrainSettings,
    photos: Dataset,
    device: torch.device,
    *,
    batch_size: int = 64,
    num_workers: int = -1,
    progress: str | None = None,
    collate_fn: Callable[[list], tuple] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """The `HeadOutput` of each batch of photos, in their order, and what else the batch holds.

    photos: a Dataset of tuples that begin with pixels (S, S, 3) uint8. progress: what a progress bar says, if any.
    """
    loader = make_loader(photos, worker_count(num_workers), device, batch_size=batch_size, collate_fn=collate_fn)
    model = model.to(device).eval()
    for pixels, *others in tqdm(loader, desc=progress, unit="batch", leave=False, disable=progress is None):
        images = move_pixels(pixels, device, not settings.orid_norm)
        with autocast(device, settings.amp):
            output = model(images)
        yield output, *others


def align(
    model: PatchModel, settings: TrainSettings, paths: Sequence[Path], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, L) and alignment maps (N, L, H, W) of some photos, in float32, by a model that has an object branch.

    A map sums to 1; see `PatchModel.alignment_maps` for models with a class token.
    """
    split = Split(list(map(str, paths)), list(paths), np.zeros((len(paths), 0)))
    photos = PhotoDataset(split, make_transform(settings, training=False))
    outputs = run_model(model, settings.replace(amp=False), photos, device, batch_size=1, num_workers=0)
    both = [(torch.sigmoid(output.logits), model.alignment_maps(output)) for output, *_ in outputs]
    scores, maps = (torch.cat(of_photos).cpu().numpy() for of_photos in zip(*both, strict=True))
    return scores, maps


def average_correlation(
    model: PatchModel, settings: TrainSettings, split: Split, device: torch.device, **loading: int
) -> np.ndarray:
    """Patch-label correlation averaged over a split's patches and images, (L, L): how much goes to the column's label
    in images where the row's label is there.

    A row sums to 1; it is NaN where no image has the label. Where the label is ignored counts as absent, as in targets.
    loading: `batch_size` and `num_workers` of `run_model`.
    Raises UserError where the model has no correlation: `branches` other than `both`, or a pooling baseline.
    """
    if settings.model != "mlic" or settings.branches != "both":
        raise UserError("this model has no patch-label correlation: it needs both branches of SGRE (branches: both)")
    photos = PhotoDataset(split, make_transform(settings, training=False))
    total = np.zeros((split.targets.shape[1],) * 2)
    for output, targets, _ in run_model(model, settings, photos, device, **loading):
        correlation = output.correlation.mean(dim=1, dtype=torch.float64).cpu().numpy()
        total += targets.numpy().T.astype(np.float64) @ correlation
    counts = split.targets.sum(axis=0, dtype=np.float64)[:, None]
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
