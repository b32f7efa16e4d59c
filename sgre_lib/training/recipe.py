"""The optimisers and learning-rate schedules of the released recipe."""

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from ..base.settings import TrainSettings

PLATEAU_PATIENCE = 1
"""Epochs without a better EMA mAP that ReduceLROnPlateau lets pass before it lowers the learning rate, as released."""


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over every parameter that is trained, with one learning rate.

    With `true_weight_decay` biases and other 1-D parameters are not decayed. Adam is AdamW with coupled weight decay
    (L2 added to the gradient). SGD gets a learning rate and a weight decay, and no momentum of its own.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": parameters, "weight_decay": settings.weight_decay}]
    if settings.true_weight_decay:
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
    if settings.optimizer == "SGD":
        return torch.optim.SGD(groups, lr=settings.lr)
    return getattr(torch.optim, settings.optimizer)(groups, lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


class Schedule:
    """The learning rate over a run: told of the end of every step and of every epoch, it moves at one of the two.

    OneCycleLR moves with each step: cosine up over the first `pct_start` of all steps, cosine down to lr / 25e4.
    PyTorch's default also cycles beta1 (of SGD: a momentum) 0.95 -> 0.85 -> 0.95, and that is part of the recipe. A rise
    needs two steps (with fewer PyTorch divides by zero), so in a run of fewer than 2 / pct_start steps it takes two.
    StepLR divides by 10 every `step_size` epochs; ReduceLROnPlateau does after PLATEAU_PATIENCE + 1 epochs in a row
    without a better EMA mAP. inner: PyTorch's scheduler, whose state is all there is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: TrainSettings, steps_an_epoch: int):
        self.kind = settings.lr_scheduler
        if self.kind == "OneCycleLR":
            self.total = max(2, settings.epochs * steps_an_epoch)
            rise = max(settings.pct_start, min(1.0, 2 / self.total))
            self.inner = OneCycleLR(optimizer, max_lr=settings.lr, total_steps=self.total, pct_start=rise)
        elif self.kind == "StepLR":
            self.inner = StepLR(optimizer, settings.step_size)
        else:
            self.inner = ReduceLROnPlateau(optimizer, mode="max", patience=PLATEAU_PATIENCE)

    def end_step(self) -> None:
        """After an optimiser step."""
        if self.kind == "OneCycleLR" and self.inner.last_epoch < self.total - 1:
            self.inner.step()

    def end_epoch(self, ema_map: float) -> None:
        """After an epoch, with the mAP of the moving average."""
        if self.kind == "StepLR":
            self.inner.step()
        elif self.kind == "ReduceLROnPlateau":
            self.inner.step(ema_map)
