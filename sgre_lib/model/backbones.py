"""The one door to backbones: any timm model that gives a feature map or patch tokens.

Feature width, grid and the image sizes that fit are asked of the model itself, never of a table: a copy on PyTorch's
`meta` device, where shapes are computed and numbers are not, answers before weights are fetched or built.
"""

import contextlib
import difflib
import math
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from ..base.errors import UserError
from .backbone_weights import load_backbone_weights
from .checkpoints import reason_of

ARCHITECTURES = {
    **{f"resnet{depth}": f"resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101, 152)},
    **{f"tresnet_{size}": f"tresnet_{size}.miil_in1k_448" for size in ("m", "l", "xl")},
    "tresnet_l21k": "tresnet_v2_l.miil_in21k",
    **{f"vit_{size}_patch16_224": f"vit_{size}_patch16_224.augreg_in21k_ft_in1k" for size in ("base", "large")},
    **{f"vit_{size}_patch16_224_in21k": f"vit_{size}_patch16_224.augreg_in21k" for size in ("base", "large")},
    "swin_base_patch4_window12_384_in22k": "swin_base_patch4_window12_384.ms_in22k",
    "swin_large_patch4_window12_384_in22k": "swin_large_patch4_window12_384.ms_in22k",
}
"""The paper's names -> the timm model with the same weights. Any other name is given to timm as it is."""

DROP_PATH = {"swin_large_patch4_window12_384_in22k": 0.1}
"""Stochastic depth in training, where the release has it."""

REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError)
"""How timm's models say that they cannot be had with some options or at some image size."""


class PatchFeatures(nn.Module):
    """Turns what a timm model's `forward_features` gives into patch features (B, P, D). Holds no parameters.

    layout: `NCHW` or `NHWC` for a feature map, `NLC` for tokens. prefix_tokens: how many class or register tokens come
    first. rm_cls: drop them.
    """

    def __init__(self, layout: str, prefix_tokens: int = 0, rm_cls: bool = False):
        super().__init__()
        self.layout, self.prefix_tokens, self.rm_cls = layout, prefix_tokens, rm_cls

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "NCHW":
            return x.flatten(2).transpose(1, 2)
        if self.layout == "NHWC":
            return x.flatten(1, 2)
        return x[:, self.prefix_tokens :] if self.rm_cls else x


class Outline(NamedTuple):
    """What a backbone gives for images of one size, known before its weights are.

    layout, prefix_tokens: see `PatchFeatures`. feat_dim: D. grid: (H, W). idle: names of parameters that patch features
    do not depend on, as layers kept for a classifier. options: what `timm.create_model` is asked for.
    """

    layout: str
    prefix_tokens: int
    feat_dim: int
    grid: tuple[int, int]
    idle: tuple[str, ...]
    options: dict[str, Any]


def make_backbone(
    arch: str,
    *,
    image_size: int,
    pretrained: bool = True,
    weights: str | Path | None = None,
    output_stride: int | None = None,
    rm_cls: bool = False,
) -> tuple[nn.Module, PatchFeatures, int, tuple[int, int]]:
    """A timm model without pooling and classifier, its `PatchFeatures`, the feature width D and the grid (H, W).

    arch: a key of `ARCHITECTURES` or a timm name. weights: a local file, see `load_backbone_weights`. pretrained: timm's
    own weights, which it downloads once. Parameters that patch features do not depend on (`Outline.idle`) are frozen:
    DistributedDataParallel waits for a gradient of every other one.
    Raises UserError for an unknown name, for an image size that the model cannot take (naming sizes that it can), and
    for weights that do not fit or cannot be had.
    """
    outline = outline_backbone(arch, image_size=image_size, output_stride=output_stride)
    fetch = pretrained and weights is None
    try:
        backbone = timm.create_model(timm_name(arch), pretrained=fetch, **outline.options)
    except Exception as error:
        if not fetch:
            raise
        raise UserError(
            f"the weights of {arch} could not be fetched ({type(error).__name__}: {reason_of(error)[:120]}); "
            "give --backbone-weights FILE or --no-pretrained"
        ) from None
    if weights is not None:
        load_backbone_weights(backbone, weights)
    for name in outline.idle:
        backbone.get_parameter(name).requires_grad_(False)
    return backbone, PatchFeatures(outline.layout, outline.prefix_tokens, rm_cls), outline.feat_dim, outline.grid


def timm_name(arch: str) -> str:
    """The timm model that `--arch` names. Raises UserError, with the nearest known names, where there is none."""
    name = ARCHITECTURES.get(arch, arch)
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        near = difflib.get_close_matches(arch, {*ARCHITECTURES, *timm.list_models()}, 3)
        raise UserError(
            f"--arch {arch} is not known to timm {timm.__version__}" + (f": {', '.join(near)}?" if near else "")
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        raise UserError(f"--arch {arch}: timm {timm.__version__} has {model} with {', '.join(tags) or 'no'} weights")
    return name


def outline_backbone(arch: str, *, image_size: int, output_stride: int | None = None) -> Outline:
    """What the backbone gives for square images of `image_size` pixels, without building or fetching its weights.

    Raises UserError as `make_backbone` does. Draws nothing from torch's generators.
    """
    name = timm_name(arch)
    options = {"drop_path_rate": DROP_PATH.get(arch), "output_stride": output_stride}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        return _outline(name, image_size, options)
    except REFUSALS as refusal:
        sizes = _working_sizes(name, image_size, options)
        stride = f" --output-stride {output_stride}" if output_stride is not None else ""
        raise UserError(
            f"--arch {arch}{stride} cannot take images of {image_size} x {image_size}: {reason_of(refusal)}"
            + (f"; sizes that work: {', '.join(map(str, sizes))}" if sizes else "")
        ) from None


def _outline(name: str, image_size: int, options: dict[str, Any], device: str = "meta") -> Outline:
    try:
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]), torch.device(device), torch.enable_grad():
            backbone, options = _construct(name, image_size, options)
            backbone.eval()
            _check_tiling(backbone, image_size)
            features = backbone.forward_features(torch.zeros(1, 3, image_size, image_size))
            layout, prefix_tokens, grid = _arrangement(backbone, features, name)
            parameters = dict(backbone.named_parameters())
            gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    except RuntimeError as error:
        # Some models of older timm versions compute numbers while they are built, which `meta` tensors do not have.
        if device == "cpu" or "meta" not in str(error):
            raise
        return _outline(name, image_size, options, "cpu")
    idle = tuple(key for key, gradient in zip(parameters, gradients, strict=True) if gradient is None)
    return Outline(layout, prefix_tokens, features.shape[1 if layout == "NCHW" else -1], grid, idle, options)


def _construct(name: str, image_size: int, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """timm's model without weights, and the options that it took.

    Models that build tables for one image size are told it, others have no such option; pooling is switched off where
    that can be done (`forward_features` never pools).
    """
    options = {"num_classes": 0, "img_size": image_size, "global_pool": "", **options}
    while True:
        try:
            return timm.create_model(name, pretrained=False, **options), options
        except (TypeError, AssertionError, ValueError) as error:
            refused = "img_size" if isinstance(error, TypeError) else "global_pool"
            if refused not in options or (isinstance(error, TypeError) and refused not in str(error)):
                raise
            del options[refused]


def _check_tiling(backbone: nn.Module, image_size: int) -> None:
    """Raise ValueError where patches would leave a rim of the image out, or windows would have to be padded.

    timm pads windows with blank patches that take part in attention, which no published Swin does.
    """
    projection = getattr(getattr(backbone, "patch_embed", None), "proj", None)
    if isinstance(projection, nn.Conv2d) and projection.kernel_size == projection.stride:
        side = projection.stride[0]
        if image_size % side:
            raise ValueError(f"patches of {side} x {side} do not tile them")
    for module in backbone.modules():
        window, grid = getattr(module, "window_size", None), getattr(module, "input_resolution", None)
        if isinstance(window, tuple) and isinstance(grid, tuple):
            if any(side % part for side, part in zip(grid, window, strict=True)):
                raise ValueError("windows of {} x {} do not tile the map of {} x {}".format(*window, *grid))
            reduction = backbone.feature_info[-1]["reduction"]
            if image_size % reduction:
                raise ValueError(f"the side is not a multiple of {reduction}")


def _arrangement(backbone: nn.Module, features: Any, name: str) -> tuple[str, int, tuple[int, int]]:
    """(layout, number of prefix tokens, grid) of a backbone's features; UserError where they are no patches."""
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        kind = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise UserError(f"--arch {name} gives features of {kind}: neither a map nor patch tokens")
    if features.dim() == 4:
        last = features.shape[-1] == backbone.num_features != features.shape[1]
        if last or str(getattr(backbone, "output_fmt", "")).endswith("NHWC"):
            return "NHWC", 0, tuple(features.shape[1:3])
        return "NCHW", 0, tuple(features.shape[2:])
    declared = getattr(backbone, "num_prefix_tokens", None)
    for prefix_tokens in (0, 1)[: 1 + hasattr(backbone, "cls_token")] if declared is None else (declared,):
        patches = features.shape[1] - prefix_tokens
        side = math.isqrt(max(patches, 0))
        if side > 1 and side * side == patches:
            return "NLC", prefix_tokens, (side, side)
    raise UserError(f"--arch {name} gives {features.shape[1]} tokens: not one for each place of a square grid")


def _working_sizes(name: str, image_size: int, options: dict[str, Any]) -> list[int]:
    """Up to three image sizes near `image_size` that the model can take, ascending."""
    config = timm.get_pretrained_cfg(name)
    own = config.input_size[-1] if config is not None else 224
    near = {image_size // step * step + extra for step in (4, 8, 14, 16, 32, 64) for extra in (0, step)}
    near |= set(range(own, 2 * max(own, image_size) + 1, own))
    working: list[int] = []
    for size in sorted(near - {0, image_size}, key=lambda size: (abs(size - image_size), size)):
        if len(working) < 3:
            with contextlib.suppress(*REFUSALS, UserError):
                _outline(name, size, options)
                working.append(size)
    return sorted(working)
