"""Heads that SGRE is compared with."""

import torch
from torch import Tensor, nn

from .head import HeadOutput


class PoolingHead(nn.Module):
    """The baseline: mean over patches, one linear layer. `alignment` is its class activation map, (B, L, P).

    The map is the linear layer's score of each patch, soft-maxed over patches, so that it reads like SGRE's.
    """

    def __init__(self, feat_dim: int, label_count: int, grid: tuple[int, int]):
        super().__init__()
        self.grid = tuple(grid)
        self.classifier = nn.Linear(feat_dim, label_count)

    def forward(self, features: Tensor) -> HeadOutput:
        logits = self.classifier(features.mean(dim=1))
        with torch.no_grad():
            activation = torch.softmax(self.classifier(features).transpose(1, 2), dim=-1)
        return HeadOutput(logits, None, activation)
