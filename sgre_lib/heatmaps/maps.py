"""Alignment and correlation of a model on photos."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..base.errors import UserError
from ..base.settings import TrainSettings
from ..datasets.prepared import PreparedDataset, Split
from ..images.dataloader import PhotoDataset, make_loader, move_pixels, worker_count
from ..images.reading import read_photo
from ..images.transforms import make_transform
from ..model.build import PatchModel
from ..model.experiment import load_experiment, open_dataset
from ..model.head import HeadOutput
from ..model.precision import autocast


def open_experiment(
    exp_dir: str | os.PathLike, data: str | os.PathLike | None, data_root: str | os.PathLike | None
) -> tuple[PatchModel, TrainSettings, PreparedDataset]:
    """The best model of an experiment, its settings, and its dataset or `data` instead, which must have its labels."""
    model, settings, labels = load_experiment(exp_dir, data=data, data_root=data_root)
    prepared = open_dataset(exp_dir, data, data_root)
    if prepared.labels != labels:
        raise UserError(f"{prepared.folder / 'label.txt'} has other labels than the experiment {exp_dir}")
    return model, settings, prepared


@torch.inference_mode()
def align(
    model: PatchModel, settings: TrainSettings, paths: Sequence[Path], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, L) and alignment maps (N, L, H, W) of some photos, one at a time, by a model in evaluation mode.

    A map sums to 1; see `PatchModel.alignment_maps` for models with a class token.
    Raises UserError where the model has no alignment (`branches: patch`).
    """
    transform = make_transform(settings, training=False)
    model = model.to(device).eval()
    scores, maps = [], []
    for path in paths:
        pixels = torch.from_numpy(transform(read_photo(path)))[None].to(device)
        output = model(pixels)
        aligned = model.alignment_maps(output)
        if aligned is None:
            raise UserError("this model has no object branch (branches: patch), so it aligns no label with patches")
        scores.append(torch.sigmoid(output.logits[0].float()).cpu().numpy())
        maps.append(aligned[0].float().cpu().numpy())
    return np.stack(scores), np.stack(maps)


@torch.inference_mode()
def run_model(
    model: PatchModel,
    settings: TrainSettings,
    split: Split,
    device: torch.device,
    *,
    batch_size: int = 64,
    num_workers: int = -1,
    progress: str | None = None,
) -> Iterator[tuple[HeadOutput, torch.Tensor, torch.Tensor]]:
    """Outputs, targets (B, L) and indices (B) of a split, a batch at a time, in its order.

    progress: what a progress bar says; None: there is none.
    """
    dataset = PhotoDataset(split, make_transform(settings, training=False))
    loader = make_loader(dataset, worker_count(num_workers), device, batch_size=batch_size)
    model = model.to(device).eval()
    for pixels, targets, indices in tqdm(loader, desc=progress, unit="batch", leave=False, disable=progress is None):
        images = move_pixels(pixels, device, dataset.transform.normalise)
        with autocast(device, settings.amp):
            output = model(images)
        yield output, targets, indices


@torch.inference_mode()
def average_correlation(
    model: PatchModel,
    settings: TrainSettings,
    split: Split,
    device: torch.device,
    *,
    batch_size: int = 64,
    num_workers: int = -1,
) -> np.ndarray:
    """Patch-label correlation averaged over a split's patches and images, (L, L): how much goes to the column's label
    in images where the row's label is there.

    A row sums to 1; it is NaN where no image has the label. Where the label is ignored counts as absent, as in targets.
    Raises UserError where the model has no correlation: `branches` other than `both`, or a pooling baseline.
    """
    if settings.model != "mlic" or settings.branches != "both":
        raise UserError("this model has no patch-label correlation: it needs both branches of SGRE (branches: both)")
    total = np.zeros((split.targets.shape[1],) * 2)
    for output, targets, _ in run_model(model, settings, split, device, batch_size=batch_size, num_workers=num_workers):
        correlation = output.correlation.mean(dim=1, dtype=torch.float64).cpu().numpy()
        total += targets.numpy().T.astype(np.float64) @ correlation
    counts = split.targets.sum(axis=0, dtype=np.float64)[:, None]
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
