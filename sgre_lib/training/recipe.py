"""The published optimiser and learning-rate schedule."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from ..base.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over every parameter; with `true_weight_decay` biases and other 1-D parameters are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": parameters, "weight_decay": settings.weight_decay}]
    if settings.true_weight_decay:
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, lr: float, steps: int) -> OneCycleLR:
    """The one-cycle schedule over `steps` steps: cosine up over the first fifth, cosine down to lr / 25e4.

    PyTorch's default also cycles beta1 0.95 -> 0.85 -> 0.95, and that is part of the recipe. With fewer than 10 steps a
    fifth is less than the two steps that a rise needs (PyTorch then divides by zero), and the rise takes two.
    """
    total = max(2, steps)
    return OneCycleLR(optimizer, max_lr=lr, total_steps=total, pct_start=max(0.2, min(1.0, 2 / total)))
