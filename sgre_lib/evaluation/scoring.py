"""Scores of a model on the photos of a split."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..base.settings import TrainSettings
from ..datasets.prepared import Split
from ..images.dataloader import PhotoDataset, make_loader, move_pixels, naming_dead_loaders, worker_count
from ..images.transforms import make_transform
from ..model.precision import autocast


@torch.inference_mode()
def score_images(
    models: Sequence[nn.Module],
    loader: DataLoader,
    device: torch.device,
    *,
    amp: bool = False,
    description: str = "scoring",
    progress: bool = True,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Scores of every model over one pass of the photos, and the index of each row.

    Returns ([scores (N, L) float32 for each model], indices (N)). Models are used in evaluation mode and left as found.
    """
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    scores: list[list[np.ndarray]] = [[] for _ in models]
    indices = []
    try:
        with naming_dead_loaders():
            for pixels, _, index in tqdm(loader, desc=description, unit="batch", leave=False, disable=not progress):
                images = move_pixels(pixels, device, loader.dataset.transform.normalise)
                with autocast(device, amp):
                    outputs = [model(images).logits for model in models]
                for rows, logits in zip(scores, outputs, strict=True):
                    rows.append(torch.sigmoid(logits.float()).cpu().numpy())
                indices.append(index.numpy())
    finally:
        for model, training in zip(models, modes, strict=True):
            model.train(training)
    if not indices:  # fewer test images than processes: this one has none
        return [np.zeros((0, 0), np.float32) for _ in models], np.zeros(0, np.int64)
    return [np.concatenate(rows) for rows in scores], np.concatenate(indices)


def score_split(
    model: nn.Module,
    split: Split,
    settings: TrainSettings,
    device: torch.device,
    *,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> np.ndarray:
    """Scores (N, L) of a model for a split, in the split's order."""
    dataset = PhotoDataset(split, make_transform(settings, training=False))
    loader = make_loader(dataset, worker_count(num_workers), device, batch_size=batch_size)
    (scores,), _ = score_images([model.to(device)], loader, device, amp=settings.amp, progress=progress)
    return scores
