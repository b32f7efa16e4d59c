"""Alignment and correlation of a model on photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..base.errors import UserError
from ..datasets.prepared import Split
from ..images.dataloader import PhotoDataset, make_loader, move_pixels, worker_count
from ..images.reading import read_photo
from ..images.transforms import make_transform
from ..model.build import PatchModel
from ..model.precision import autocast


@torch.inference_mode()
def align(model: PatchModel, settings, paths: Sequence[Path], device: torch.device) -> tuple[np.ndarray, np.ndarray]:
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
def average_correlation(
    model: PatchModel,
    settings,
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
    dataset = PhotoDataset(split, make_transform(settings, training=False))
    loader = make_loader(dataset, worker_count(num_workers), device, batch_size=batch_size)
    model = model.to(device).eval()
    total = np.zeros((split.targets.shape[1],) * 2)
    for pixels, targets, _ in loader:
        images = move_pixels(pixels, device, dataset.transform.normalise)
        with autocast(device, settings.amp):
            correlation = model(images).correlation
        total += targets.numpy().T.astype(np.float64) @ correlation.mean(dim=1, dtype=torch.float64).cpu().numpy()
    counts = split.targets.sum(axis=0, dtype=np.float64)[:, None]
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
