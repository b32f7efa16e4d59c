"""The two attentions of SGRE: labels over patches (inter-modal), patches over labels (intra-modal).

B images, L labels, P patches, D features, T numbers of a label embedding, A = 1024 attention size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

ATTENTION_SIZE = 1024

CHUNK_BYTES = {"cpu": 1 << 19, "cuda": 1 << 28}
"""How much of the (B, L, P, A) tensor exists at a time: what a core's cache holds, or enough to fill a GPU."""

EXPORT_BYTES = 1 << 24
"""The same for one image of an exported model, whose loop over labels is written out in the graph."""


class InterModalAttention(nn.Module):
    """Which patches speak for which label: softmax over patches of Wt (Wh tanh(Wx x * We e) + bh) + bt.

    Nothing non-linear stands between Wh and Wt, so their product Wt Wh, one vector of A numbers, is taken first; the
    constant Wt bh + bt is the same for every patch and cancels in the softmax. Both are exact, and so are the gradients.
    Parameters keep the shapes of the released model: Wx (A, D), We (A, T), Wh (A, A), bh (A), Wt (1, A), bt (1).
    """

    def __init__(self, feat_dim: int, embed_dim: int, attention_size: int = ATTENTION_SIZE):
        super().__init__()
        self.project_patches = nn.Linear(feat_dim, attention_size, bias=False)
        self.project_labels = nn.Linear(embed_dim, attention_size, bias=False)
        self.hidden = nn.Linear(attention_size, attention_size)
        self.target = nn.Linear(attention_size, 1)

    def forward(self, features: Tensor, label_embeddings: Tensor, tau: float = 1.0) -> Tensor:
        """Alignment (B, L, P), summing to 1 over P, of features (B, P, D) and label embeddings (L, T)."""
        patches = self.project_patches(features)
        labels = self.project_labels(label_embeddings)
        weight = (self.target.weight @ self.hidden.weight).squeeze(0)
        scores = bilinear_scores(patches, labels, weight)
        # The biases cancel. They stay in the graph with gradient 0, so that every optimiser and DDP treats them as the
        # parameters they are (weight decay applies; none is "unused").
        scores = scores + 0.0 * (self.hidden.bias.sum() + self.target.bias.sum())
        return torch.softmax(scores / tau, dim=-1)


def bilinear_scores(patches: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """s[b, l, p] = sum over a of weight[a] * tanh(patches[b, p, a] * labels[l, a]).

    patches (B, P, A), labels (L, A), weight (A); returns (B, L, P). The (B, L, P, A) tensor is made a chunk of
    CHUNK_BYTES at a time and made again in the backward pass, so memory does not grow with B * L * P * A. First
    derivatives only.
    """
    if torch.onnx.is_in_onnx_export():
        step = max(1, EXPORT_BYTES // (4 * int(patches.shape[1]) * int(patches.shape[2])))
        groups = labels.split(step)
        return torch.cat([torch.tanh(patches[:, None] * group[:, None]) @ weight for group in groups], dim=1)
    if torch.is_autocast_enabled(patches.device.type):
        # tanh and its products are taken in the patches' precision; the three come out of autocast in one type.
        labels, weight = labels.to(patches.dtype), weight.to(patches.dtype)
    return _scores_in_chunks(patches, labels, weight)


def _chunks(patches: Tensor, labels: Tensor) -> list[tuple[int, int, int]]:
    """(image, first label, last label + 1) of every chunk."""
    limit = CHUNK_BYTES.get(patches.device.type, CHUNK_BYTES["cuda"])
    step = max(1, limit // (patches.shape[1] * patches.shape[2] * patches.element_size()))
    count = len(labels)
    return [(b, i, min(i + step, count)) for b in range(len(patches)) for i in range(0, count, step)]


# Two operators that torch.compile takes as they are. Left to itself it writes the chunks' loop out whole or, given the
# formula without chunks, makes the (B, L, P, A) tensor twice in the backward pass.
@torch.library.custom_op("sgre::bilinear_scores", mutates_args=())
def _scores_in_chunks(patches: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    scores = patches.new_empty(len(patches), len(labels), patches.shape[1])
    for b, i, j in _chunks(patches, labels):
        scores[b, i:j] = (patches[b] * labels[i:j, None]).tanh_() @ weight
    return scores


@torch.library.custom_op("sgre::bilinear_gradients", mutates_args=())
def _gradients_in_chunks(
    gradient: Tensor, patches: Tensor, labels: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # Sums over images, labels and patches are kept in float32: in half precision they would lose what they add up.
    wide = torch.promote_types(patches.dtype, torch.float32)
    d_patches, d_labels, d_weight = (torch.zeros_like(x, dtype=wide) for x in (patches, labels, weight))
    for b, i, j in _chunks(patches, labels):
        g = gradient[b, i:j]  # (l, P)
        z = (patches[b] * labels[i:j, None]).tanh_()  # (l, P, A)
        d_weight += g.reshape(-1) @ z.reshape(-1, z.shape[-1])
        # d tanh = 1 - z^2, times g; the factor `weight` is common to both products and is applied at the end.
        slope = z * g[..., None]
        torch.addcmul(g[..., None], slope, z, value=-1, out=slope)
        d_labels[i:j] += torch.mul(slope, patches[b], out=z).sum(1, dtype=wide)
        if j - i == 1 and wide == patches.dtype:
            d_patches[b].addcmul_(slope[0], labels[i])
        else:
            d_patches[b] += slope.mul_(labels[i:j, None]).sum(0, dtype=wide)
    return (d_patches * weight).to(patches.dtype), (d_labels * weight).to(labels.dtype), d_weight.to(weight.dtype)


@_scores_in_chunks.register_fake
def _(patches, labels, weight):
    return patches.new_empty(len(patches), len(labels), patches.shape[1])


@_gradients_in_chunks.register_fake
def _(gradient, patches, labels, weight):
    return torch.empty_like(patches), torch.empty_like(labels), torch.empty_like(weight)


def _keep_inputs(ctx, inputs, output) -> None:  # these three names are PyTorch's
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_in_chunks(gradient.contiguous(), *ctx.saved_tensors)


_scores_in_chunks.register_autograd(_differentiate, setup_context=_keep_inputs)


class ProjectionBlock(nn.Module):
    """A 1x1 convolution D -> D without bias, batch norm over all positions of the batch, ReLU: (B, N, D) -> (B, N, D)."""

    def __init__(self, feat_dim: int):
        super().__init__()
        self.linear = nn.Linear(feat_dim, feat_dim, bias=False)
        self.norm = nn.BatchNorm1d(feat_dim)

    def forward(self, x: Tensor) -> Tensor:
        # A 1x1 convolution is a matrix product.
        return self.activate(self.linear(x))

    def mix(self, weights: Tensor, x: Tensor, mixed: Tensor | None = None) -> Tensor:
        """The block of weights @ x: (B, M, N), (B, N, D) -> (B, M, D). mixed: that product, where it is there already.

        A product of three matrices is the same in either order; it is taken in the one with fewer operations.
        """
        if weights.shape[1] > weights.shape[2]:
            return self.activate(weights @ self.linear(x))
        return self(weights @ x if mixed is None else mixed)

    def activate(self, x: Tensor) -> Tensor:
        # A batch norm takes (B * N, D) as it lies in memory.
        return functional.relu(self.norm(x.reshape(-1, x.shape[-1]))).view(x.shape)


class IntraModalAttention(nn.Module):
    """Object context for every patch: softmax over labels of q k^T (unscaled), then a weighted sum of values."""

    def __init__(self, feat_dim: int):
        super().__init__()
        self.query = ProjectionBlock(feat_dim)
        self.key = ProjectionBlock(feat_dim)
        self.value = ProjectionBlock(feat_dim)
        self.context = ProjectionBlock(feat_dim)

    def forward(self, features: Tensor, alignment: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, P, D) and correlation (B, P, L), of features (B, P, D) and objects (B, L, D).

        objects are alignment (B, L, P) @ features; both are given so that keys and values can be had from either.
        """
        query = self.query(features)
        key, value = (block.mix(alignment, features, objects) for block in (self.key, self.value))
        correlation = torch.softmax(query @ key.transpose(1, 2), dim=-1)
        return self.context.mix(correlation, value), correlation
