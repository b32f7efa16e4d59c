"""`build_model`: a backbone and a head, from settings."""

import numpy as np
from torch import Tensor, nn

from ..base.errors import UserError
from ..base.places import find_file
from ..base.settings import TrainSettings, make_settings
from ..datasets.label_embeddings import RANDOM_SIZE, read_label_embeddings
from ..datasets.prepared import PreparedDataset
from .backbones import PatchFeatures, make_backbone
from .baselines import PoolingHead
from .head import HeadOutput, SGREHead


class PatchModel(nn.Module):
    """Images (B, 3, S, S) -> `HeadOutput`. `backbone` is timm's model, `head` the part of this project."""

    def __init__(self, backbone: nn.Module, patches: PatchFeatures, head: nn.Module):
        super().__init__()
        self.backbone, self.patches, self.head = backbone, patches, head

    def features(self, images: Tensor) -> Tensor:
        """Patch features (B, P, D), row-major over the grid."""
        return self.patches(self.backbone.forward_features(images))

    def forward(self, images: Tensor) -> HeadOutput:
        return self.head(self.features(images))

    def alignment_maps(self, output: HeadOutput) -> Tensor | None:
        """An output's alignment on the grid, (B, L, H, W); None where the model has none.

        A class token's share, where a ViT keeps it, comes first: it is left out, and the rest is not rescaled.
        """
        if output.alignment is None:
            return None
        height, width = self.head.grid
        return output.alignment[:, :, -height * width :].unflatten(2, (height, width))


def build_model(
    config: TrainSettings | dict,
    pretrained: bool | None = None,
    *,
    label_embeddings: np.ndarray | Tensor | None = None,
    label_count: int | None = None,
) -> PatchModel:
    """The model that a configuration describes, on the CPU, in training mode, drawn from torch's global generator.

    config: `TrainSettings`, or a dictionary of some. pretrained: overrides the configuration's (True: ImageNet weights
    or its `backbone_weights`; False: none). label_embeddings: fixed (L, T); without them label_count is needed and
    SGRE trains embeddings of its own (`random`), as it does when the configuration says `embed_type: random`.
    When neither is given they are read from the configuration's dataset.
    Raises UserError for what cannot be built, naming the option.
    """
    settings = config if isinstance(config, TrainSettings) else make_settings(needs_data=False, **config)
    if label_embeddings is None and label_count is None:
        prepared = PreparedDataset(settings.data)
        label_count = len(prepared.labels)
        if settings.model == "mlic":
            label_embeddings = read_label_embeddings(settings.embed_type, prepared)
    # A file of weights speaks for itself; `pretrained=False` from the caller, whose weights come later, leaves both out.
    local = settings.backbone_weights if pretrained is not False else None
    backbone, patches, feat_dim, grid = make_backbone(
        settings.arch,
        image_size=settings.image_size,
        pretrained=settings.pretrained if pretrained is None else pretrained,
        weights=find_file(local) if local else None,
        output_stride=settings.output_stride,
        # The position map has no place for a class token.
        rm_cls=settings.rm_cls or (settings.pos and settings.model == "mlic"),
    )
    if label_embeddings is None:  # trained ones begin Kaiming-uniform with a = sqrt(5), as a linear layer's weight does
        label_embeddings = nn.Linear(RANDOM_SIZE, label_count, bias=False).weight
    return PatchModel(backbone, patches, _build_head(settings, feat_dim, grid, label_embeddings))


def _build_head(
    settings: TrainSettings, feat_dim: int, grid: tuple[int, int], label_embeddings: np.ndarray | Tensor
) -> nn.Module:
    """The head that settings describe; UserError where its options do not fit the backbone."""
    if settings.model == "gap":
        return PoolingHead(feat_dim, len(label_embeddings), grid)
    if feat_dim % settings.num_heads:
        raise UserError(f"--num-heads {settings.num_heads} does not divide the {feat_dim} features of {settings.arch}")
    if settings.pos and feat_dim % 2:
        raise UserError(f"--pos needs an even feature width; {settings.arch} has {feat_dim}")
    options = ("pos", "tau", "num_heads", "num_layers", "normalize_before", "branches")
    return SGREHead(feat_dim, label_embeddings, grid, **{name: getattr(settings, name) for name in options})


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: `backbone`, `head`, `total`. Fixed label embeddings are none."""
    counts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("backbone", "head")}
    return counts | {"total": sum(counts.values())}
