"""Losses over logits (B, L) and 0/1 targets (B, L)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..base.settings import TrainSettings
from ..model.head import HeadOutput

SCALE = 1000.0
"""The release multiplies its loss by this; the published learning rates were chosen with it."""


class AsymmetricLoss(nn.Module):
    """The asymmetric loss (ASL) of the release: a focal log-loss with its own exponent for negatives.

    gamma_neg, gamma_pos: focusing exponents of negatives and positives. clip: margin added to a negative's probability
    of being right. eps: the floor inside the logarithms. The focusing weight takes no part in the gradient.
    `forward` returns 1000 times the mean over B * L, a scalar.
    """

    def __init__(self, gamma_neg: float = 2.0, gamma_pos: float = 0.0, clip: float = 0.0, eps: float = 1e-5):
        super().__init__()
        self.gamma_neg, self.gamma_pos, self.clip, self.eps = gamma_neg, gamma_pos, clip, eps

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()  # under mixed precision log(1e-5) needs the range
        targets = targets.to(logits.dtype)
        positive = torch.sigmoid(logits)
        negative = 1 - positive
        if self.clip > 0:
            negative = (negative + self.clip).clamp(max=1)
        likelihood = targets * positive.clamp(min=self.eps).log() + (1 - targets) * negative.clamp(min=self.eps).log()
        if self.gamma_neg > 0 or self.gamma_pos > 0:
            with torch.no_grad():
                wrong = 1 - positive * targets - negative * (1 - targets)
                weight = wrong ** (self.gamma_pos * targets + self.gamma_neg * (1 - targets))
            likelihood = likelihood * weight
        return -likelihood.sum() / len(logits) / logits.shape[1] * SCALE


def make_loss(settings: TrainSettings) -> Callable[[HeadOutput, Tensor], Tensor]:
    """The loss that the settings name, of a model's output and its targets: both branches, the object's by `lamda`.

    `bce` is the mean binary cross-entropy with logits, without the factor of ASL.
    """
    asl = AsymmetricLoss(settings.gamma_neg, settings.gamma_pos, settings.clip)

    def branch_loss(logits: Tensor, targets: Tensor) -> Tensor:
        if settings.loss == "bce":
            return nn.functional.binary_cross_entropy_with_logits(logits.float(), targets.float())
        return asl(logits, targets)

    def loss(output: HeadOutput, targets: Tensor) -> Tensor:
        total = branch_loss(output.logits, targets)
        if output.object_logits is not None and output.object_logits is not output.logits:
            total = total + settings.lamda * branch_loss(output.object_logits, targets)
        return total

    return loss
