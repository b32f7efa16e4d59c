"""The head and the training step with every formula written as it stands in the paper: what ours are measured against.

The parameters are a `SGREHead`'s own, so both compute the same function of the same numbers. Tests compare gradients
with it, benchmarks time and memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgre_lib.model.attention import InterModalAttention, ProjectionBlock
from sgre_lib.model.head import EncoderLayer, HeadOutput, SGREHead


class LiteralHead(nn.Module):
    """`SGREHead` (branches `both`), formula by formula."""

    def __init__(self, head: SGREHead):
        super().__init__()
        self.head, self.grid = head, head.grid
        self.blocks = nn.ModuleDict(
            {name: _make_convolution(block) for name, block in head.intra_modal.named_children()}
        )

    def forward(self, features: Tensor) -> HeadOutput:
        head = self.head
        position = head.position_map.flatten(2)[0].T if head.pos else None
        x = features
        for layer in head.encoder.layers:
            x = encode(layer, x, position)
        alignment = align(head.inter_modal, x, head.label_embeddings, head.tau)
        objects = alignment @ x
        object_logits = (objects * head.object_classifier.weight).sum(-1) + head.object_classifier.bias
        query, key, value = self.project("query", x), self.project("key", objects), self.project("value", objects)
        correlation = torch.softmax(query @ key.transpose(1, 2), dim=-1)
        context = self.project("context", correlation @ value)
        classifier = head.patch_classifier
        hidden = classifier.dropout(functional.relu(classifier.hidden(torch.cat((x, context), dim=-1))))
        return HeadOutput(classifier.output(hidden).amax(dim=1), object_logits, alignment, correlation)

    def project(self, name: str, x: Tensor) -> Tensor:
        return self.blocks[name](x.transpose(1, 2)).transpose(1, 2)


def _make_convolution(block: ProjectionBlock) -> nn.Sequential:
    """A projection block as the 1x1 convolution that it is, on (B, D, N)."""
    width = block.linear.out_features
    convolution = nn.Conv1d(width, width, 1, bias=False)
    convolution.weight.data.copy_(block.linear.weight.data[..., None])
    return nn.Sequential(convolution, block.norm, nn.ReLU())


def encode(layer: EncoderLayer, x: Tensor, position: Tensor | None) -> Tensor:
    """A post-norm or pre-norm transformer encoder layer; its attention returns its weights, as by default."""
    inner = layer.attention_norm(x) if layer.normalize_before else x
    placed = inner if position is None else inner + position
    x = x + layer.dropout(layer.attention(placed, placed, inner)[0])
    x = x if layer.normalize_before else layer.attention_norm(x)
    x = x + layer.feed(layer.feedforward_norm(x) if layer.normalize_before else x)
    return x if layer.normalize_before else layer.feedforward_norm(x)


def align(attention: InterModalAttention, x: Tensor, label_embeddings: Tensor, tau: float) -> Tensor:
    """softmax over patches of Wt (Wh tanh(Wx x * We e) + bh) + bt, with the (B, L, P, A) tensor made whole."""
    patches, labels = attention.project_patches(x), attention.project_labels(label_embeddings)
    z = torch.tanh(patches[:, None] * labels[None, :, None])
    return torch.softmax(attention.target(attention.hidden(z)).squeeze(-1) / tau, dim=-1)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """The moving average of a model, a tensor at a time."""
    for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        ours.copy_(decay * ours + (1 - decay) * theirs)
