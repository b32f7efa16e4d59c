"""The SGRE head: patch features and label embeddings in, logits out.

B images, L labels, P = H x W patches (row-major), D features, T numbers of a label embedding.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import InterModalAttention, IntraModalAttention

FEEDFORWARD_SIZE = 2048
DROPOUT = 0.1
CLASSIFIER_DROPOUT = 0.5
BRANCHES = ("both", "patch", "object")


class HeadOutput(NamedTuple):
    """What a head returns. logits (B, L) are the ones to evaluate; the rest is None where a branch is left out."""

    logits: Tensor
    object_logits: Tensor | None
    alignment: Tensor | None
    correlation: Tensor | None = None


def position_map_sine(feat_dim: int, grid: tuple[int, int]) -> Tensor:
    """The 2-D sine position map (1, D, H, W): the first D/2 channels encode y, the last D/2 x.

    Coordinates 1..H are scaled to (0, 2 pi]; channel i of a half has frequency 10000^(-2 floor(i/2) / (D/2)), a sine
    where i is even and a cosine where it is odd. D must be even.
    """
    if feat_dim % 2:
        raise ValueError(f"the position map needs an even feature width, not {feat_dim}")
    half = feat_dim // 2
    channel = torch.arange(half)
    period = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)

    def encode(count: int) -> Tensor:  # (count, half)
        coordinate = torch.arange(1, count + 1, dtype=torch.float32) / (count + 1e-6) * (2 * math.pi)
        angle = coordinate[:, None] / period
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    y_and_x = torch.broadcast_tensors(encode(grid[0])[:, None], encode(grid[1])[None])
    return torch.cat(y_and_x, dim=2).permute(2, 0, 1)[None].contiguous()


class EncoderLayer(nn.Module):
    """A transformer encoder layer whose queries and keys, never its values, see the position map."""

    def __init__(self, feat_dim: int, num_heads: int, normalize_before: bool):
        super().__init__()
        self.attention = nn.MultiheadAttention(feat_dim, num_heads, dropout=DROPOUT, batch_first=True)
        self.expand = nn.Linear(feat_dim, FEEDFORWARD_SIZE)
        self.contract = nn.Linear(FEEDFORWARD_SIZE, feat_dim)
        self.attention_norm = nn.LayerNorm(feat_dim)
        self.feedforward_norm = nn.LayerNorm(feat_dim)
        self.dropout = nn.Dropout(DROPOUT)
        self.normalize_before = normalize_before

    def attend(self, x: Tensor, position: Tensor | None) -> Tensor:
        placed = x if position is None else x + position
        return self.dropout(self.attention(placed, placed, x, need_weights=False)[0])

    def feed(self, x: Tensor) -> Tensor:
        return self.dropout(self.contract(self.dropout(functional.relu(self.expand(x)))))

    def forward(self, x: Tensor, position: Tensor | None) -> Tensor:
        """(B, P, D) -> (B, P, D); position: (P, D) or None."""
        if self.normalize_before:
            x = x + self.attend(self.attention_norm(x), position)
            return x + self.feed(self.feedforward_norm(x))
        x = self.attention_norm(x + self.attend(x, position))
        return self.feedforward_norm(x + self.feed(x))


class PatchEncoder(nn.Module):
    """`num_layers` encoder layers in a row, without a final norm."""

    def __init__(self, feat_dim: int, num_heads: int, num_layers: int, normalize_before: bool):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(feat_dim, num_heads, normalize_before) for _ in range(num_layers))

    def forward(self, x: Tensor, position: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, position)
        return x


class ObjectClassifier(nn.Linear):
    """One weight vector and one bias a label, each for its own object: (B, L, D) -> (B, L)."""

    def forward(self, objects: Tensor) -> Tensor:
        return (objects * self.weight).sum(-1) + self.bias


class PatchClassifier(nn.Module):
    """Two linear layers on every patch, then the maximum over patches: (B, P, C) -> (B, L).

    A maximum hands its gradient to the patch that attains it and to no other. Few patches do, so in training the
    backward pass goes through those alone: the same gradients, for a part of the work.
    """

    def __init__(self, width: int, label_count: int):
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(CLASSIFIER_DROPOUT)
        self.output = nn.Linear(width, label_count)

    def forward(self, x: Tensor) -> Tensor:
        # Choosing patches would keep a GPU waiting for the choice; compilers and ONNX want shapes known beforehand.
        fixed = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
        if fixed or x.device.type != "cpu" or not torch.is_grad_enabled():
            return self.output(self.activate(x)).amax(dim=1)
        with torch.no_grad():
            active = self.activate(x)
            scores = self.output(active)
            attains = ~(scores < scores.amax(dim=1, keepdim=True))  # (B, P, L); true of NaN too, which must be seen
            # Like amax's gradient: where several patches attain the maximum, each has an even part.
            part = attains / attains.sum(dim=1, keepdim=True)
            image, patch = attains.any(dim=2).nonzero(as_tuple=True)  # R chosen patches
        scale = 1 / (1 - self.dropout.p) if self.training else 1.0
        known = active[image, patch]
        chosen = _KnownActivation.apply(x[image, patch], self.hidden.weight, self.hidden.bias, known, scale)
        parts = self.output(chosen) * part[image, patch]
        return parts.new_zeros(len(x), parts.shape[1]).index_add(0, image, parts)

    def activate(self, x: Tensor) -> Tensor:
        return self.dropout(functional.relu(self.hidden(x)))


class _KnownActivation(torch.autograd.Function):
    """dropout(relu(linear(x))) whose value is known already; only its gradients are worked out."""

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, bias: Tensor, value: Tensor, scale: float) -> Tensor:
        # What was dropped is 0 like what was negative, and both have no gradient: the value says it all.
        context.save_for_backward(x, weight, value)
        context.scale = scale
        return value

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, value = context.saved_tensors
        inner = gradient * (value > 0) * context.scale
        inner, x = inner.to(weight.dtype), x.to(weight.dtype)
        return inner @ weight, inner.T @ x, inner.sum(0), None, None


class SGREHead(nn.Module):
    """Patch encoder, inter-modal attention, object branch, intra-modal attention and patch branch.

    feat_dim: D, even with `pos`, a multiple of num_heads. label_embeddings: (L, T); a `nn.Parameter` is trained and
    stored in the state dict, any other tensor is fixed and is not stored. grid: (H, W) of the patches. tau: the
    temperature of the alignment. num_layers: 0 leaves the patch encoder out.

    branches (ours, for the ablation): `both` is SGRE. `patch` scores patches by their own features: no alignment, no
    object loss, no context (the classifier's width is D, not 2D). `object` scores object representations alone.
    """

    def __init__(
        self,
        feat_dim: int,
        label_embeddings: Tensor,
        grid: tuple[int, int],
        *,
        pos: bool = True,
        tau: float = 1.0,
        num_heads: int = 8,
        num_layers: int = 1,
        normalize_before: bool = False,
        branches: str = "both",
    ):
        super().__init__()
        label_embeddings = torch.as_tensor(label_embeddings)  # a numpy array will do; a Parameter stays one
        if label_embeddings.dim() != 2:
            raise ValueError(f"label_embeddings have shape {tuple(label_embeddings.shape)}, not (L, T)")
        if feat_dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide the feature width {feat_dim}")
        if branches not in BRANCHES:
            raise ValueError(f"branches {branches!r}: choose from {', '.join(BRANCHES)}")
        if tau <= 0:
            raise ValueError(f"tau {tau} must be above 0")
        label_count, embed_dim = label_embeddings.shape
        self.grid, self.pos, self.tau, self.branches = tuple(grid), pos, tau, branches
        if branches == "patch":
            self.label_embeddings = None  # only their number counts: nothing attends from labels
        elif isinstance(label_embeddings, nn.Parameter):
            self.label_embeddings = label_embeddings
        else:
            self.register_buffer("label_embeddings", label_embeddings.clone().float(), persistent=False)
        # Released checkpoints hold the map whether or not it is used, so it is kept wherever it can be made.
        if pos or feat_dim % 2 == 0:
            self.register_buffer("position_map", position_map_sine(feat_dim, self.grid))
        self.encoder = PatchEncoder(feat_dim, num_heads, num_layers, normalize_before)
        if branches != "patch":
            self.inter_modal = InterModalAttention(feat_dim, embed_dim)
            self.object_classifier = ObjectClassifier(feat_dim, label_count)
        if branches == "both":
            self.intra_modal = IntraModalAttention(feat_dim)
        if branches != "object":
            self.patch_classifier = PatchClassifier(2 * feat_dim if branches == "both" else feat_dim, label_count)

    def forward(self, features: Tensor) -> HeadOutput:
        """logits (B, L), object_logits (B, L), alignment (B, L, P), correlation (B, P, L) of features (B, P, D)."""
        position = None
        if self.pos:
            position = self.position_map.flatten(2)[0].T
            if features.shape[1] != len(position):
                raise ValueError(
                    f"{features.shape[1]} patches do not fit the {self.grid[0]}x{self.grid[1]} position map"
                    " (a ViT's class token must be removed: rm_cls)"
                )
        x = self.encoder(features, position)
        if self.branches == "patch":
            return HeadOutput(self.patch_classifier(x), None, None)
        alignment = self.inter_modal(x, self.label_embeddings, self.tau)
        objects = alignment @ x
        object_logits = self.object_classifier(objects)
        if self.branches == "object":
            return HeadOutput(object_logits, object_logits, alignment)
        context, correlation = self.intra_modal(x, alignment, objects)
        logits = self.patch_classifier(torch.cat((x, context), dim=-1))
        return HeadOutput(logits, object_logits, alignment, correlation)
