"""Protects released checkpoints: under the authors' names and under ours the same outputs, and no entry lost.

The originals are written out here a second time, from their description and not from the library: the head, TResNet
with in-place activated batch norm, ViT and Swin as timm 0.5 had them, each as functions of a released state dict.
"""

from __future__ import annotations

import math
import os
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from PIL import Image
from timm.models import tresnet as timm_tresnet
from torch import Tensor, nn
from torch.nn import functional

from sgre_lib import build_model, commands, convert_released, export_released, load_experiment
from sgre_lib.base.errors import UserError
from sgre_lib.model.checkpoints import load_state, read_checkpoint
from sgre_lib.model.released import is_released
from sgre_lib.model.released_names import HEAD_NAMES, rename

torch.set_num_threads(1)
LABELS, EMBED_DIM = 5, 12


# --- the originals ---------------------------------------------------------------------------------------------------


class Draw:
    """Random tensors of sizes that keep outputs near 1."""

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator) / math.sqrt(max(1, math.prod(shape[1:])))

    def linear(self, name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
        return {f"{name}.weight": self(outputs, inputs), f"{name}.bias": 0.1 * self(outputs)}

    def layer_norm(self, name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + 0.3 * self(width), f"{name}.bias": 0.3 * self(width)}

    def batch_norm(self, name: str, width: int, *, counter: bool = True) -> dict[str, Tensor]:
        state = {f"{name}.{leaf}": 0.3 * self(width) for leaf in ("weight", "bias", "running_mean", "running_var")}
        state[f"{name}.weight"] += torch.where(self(width) < 0, -1.0, 1.0)  # in-place ABN's may be negative
        state[f"{name}.running_var"] = state[f"{name}.running_var"].abs() + 0.5
        return state | ({f"{name}.num_batches_tracked": torch.tensor(7)} if counter else {})


def draw_head(draw: Draw, feat_dim: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """A head's released state dict with random label semantics of EMBED_DIM numbers, which are not in it."""
    d, one = feat_dim, "encoder.layers.0"
    state = {"position_embedding.pe": draw(1, d, *grid) * math.sqrt(d)}
    state |= {f"{one}.self_attn.in_proj_weight": draw(3 * d, d), f"{one}.self_attn.in_proj_bias": 0.1 * draw(3 * d)}
    state |= draw.linear(f"{one}.self_attn.out_proj", d, d)
    state |= draw.linear(f"{one}.linear1", d, 2048) | draw.linear(f"{one}.linear2", 2048, d)
    state |= draw.layer_norm(f"{one}.norm1", d) | draw.layer_norm(f"{one}.norm2", d)
    state |= {"attention.linear1.weight": draw(1024, d), "attention.linear2.weight": draw(1024, EMBED_DIM)}
    state |= draw.linear("attention.hidden_linear", 1024, 1024) | draw.linear("attention.target_linear", 1024, 1)
    state |= {"fc.weight": draw(LABELS, d), "fc.bias": draw(LABELS)}
    state |= draw.linear("fc2.0", 2 * d, 2 * d) | draw.linear("fc2.3", 2 * d, LABELS)
    for number in (1, 2, 3, 4):
        state |= {f"net{number}.0.weight": draw(d, d, 1)} | draw.batch_norm(f"net{number}.1", d)
    return state


def run_head(state: dict[str, Tensor], x: Tensor, e: Tensor, *, pos: bool) -> Tensor:
    """Logits (B, L) of features (B, P, D) and label embeddings (L, T), in evaluation mode."""
    one, heads = "encoder.layers.0", 8

    def linear(name: str, value: Tensor) -> Tensor:
        return functional.linear(value, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def split(value: Tensor) -> Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    def norm(name: str, value: Tensor) -> Tensor:
        return functional.layer_norm(value, value.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def block(number: int, value: Tensor) -> Tensor:
        name = f"net{number}"
        value = functional.conv1d(value.transpose(1, 2), state[f"{name}.0.weight"])
        statistics = (state[f"{name}.1.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(value, *statistics).relu().transpose(1, 2)

    placed = x + state["position_embedding.pe"].flatten(2).transpose(1, 2) if pos else x
    weights = state[f"{one}.self_attn.in_proj_weight"].chunk(3)
    biases = state[f"{one}.self_attn.in_proj_bias"].chunk(3)
    q, k, v = (split(functional.linear(*part)) for part in zip((placed, placed, x), weights, biases, strict=True))
    attended = (torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), -1) @ v).transpose(1, 2).flatten(2)
    x = norm(f"{one}.norm1", x + linear(f"{one}.self_attn.out_proj", attended))
    x = norm(f"{one}.norm2", x + linear(f"{one}.linear2", linear(f"{one}.linear1", x).relu()))
    z = torch.tanh(linear("attention.linear1", x)[:, None] * linear("attention.linear2", e)[:, None])
    scores = linear("attention.target_linear", linear("attention.hidden_linear", z))[..., 0]
    f = torch.softmax(scores, -1) @ x
    correlation = torch.softmax(block(1, x) @ block(2, f).transpose(1, 2), -1)
    enhanced = torch.cat((x, block(4, correlation @ block(3, f))), -1)
    return linear("fc2.3", linear("fc2.0", enhanced).relu()).amax(1)


def make_resnet() -> tuple[dict[str, Tensor], nn.Module]:
    """torchvision's own ResNet-18."""
    torch.manual_seed(0)
    model, draw = torchvision.models.resnet18(weights=None).eval(), Draw(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            values = draw.batch_norm("", module.num_features)
            module.load_state_dict({key[1:]: value for key, value in values.items()})
    return model.state_dict(), model


def run_resnet(model: nn.Module, images: Tensor) -> Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x)))).flatten(2).transpose(1, 2)


class InPlaceABN(nn.Module):
    """In-place activated batch norm, in evaluation mode: the scale is abs(weight) + eps; slope 1 is the identity."""

    def __init__(self, width: int, slope: float):
        super().__init__()
        self.slope = slope
        for name, value in Draw(width).batch_norm("", width, counter=False).items():
            self.register_buffer(name[1:], value)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        x = (x - self.running_mean.view(shape)) / (self.running_var.view(shape) + 1e-5).sqrt()
        x = x * (self.weight.abs() + 1e-5).view(shape) + self.bias.view(shape)
        return torch.where(x > 0, x, x * self.slope)


class AntiAlias(nn.Module):
    """A 3x3 binomial filter of stride 2 over a mirrored edge. Some versions keep the filter in the state dict."""

    def __init__(self, width: int):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.op = nn.Module()
        self.op.register_buffer("filt", (row[:, None] * row).expand(width, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), "reflect"), self.op.filt, stride=2, groups=x.shape[1])


def conv_abn(inputs: int, outputs: int, kernel: int, slope: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), InPlaceABN(outputs, slope)
    )


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, reduced: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, reduced, 1), nn.Conv2d(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()))


class TResNetBlock(nn.Module):
    """A basic block (two 3x3 convolutions) or a bottleneck (1x1, 3x3, 1x1 to four times the width)."""

    def __init__(self, inputs: int, width: int, *, bottleneck: bool, halve: bool, excite: bool):
        super().__init__()
        outputs = width * 4 if bottleneck else width
        wide = conv_abn(width if bottleneck else inputs, width, 3, 1e-3)
        wide = nn.Sequential(wide, AntiAlias(width)) if halve else wide
        self.conv1 = conv_abn(inputs, width, 1, 1e-3) if bottleneck else wide
        self.conv2 = wide if bottleneck else conv_abn(width, width, 3, 1.0)
        self.conv3 = conv_abn(width, outputs, 1, 1.0) if bottleneck else None
        self.se = SqueezeExcite(width, max(outputs // (8 if bottleneck else 4), 64)) if excite else None
        self.downsample = None
        if halve or inputs != outputs:
            pool = [nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)] if halve else []
            self.downsample = nn.Sequential(*pool, conv_abn(inputs, outputs, 1, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        y = self.se(y) if self.se is not None else y
        y = self.conv3(y) if self.conv3 is not None else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class OriginalTResNet(nn.Module):
    """TResNet-M (or, with `v2`, the bottlenecks-only version) cut down to width 16 and few blocks."""

    def __init__(self, blocks: tuple[int, ...], *, v2: bool = False):
        super().__init__()
        self.body = nn.Sequential()
        self.body.add_module("conv1", conv_abn(48, 16, 3, 1e-2))
        inputs = 16
        for stage, count in enumerate(blocks):
            layer, bottleneck = nn.Sequential(), v2 or stage >= 2
            for number in range(count):
                width, halve = 16 * 2**stage, stage > 0 and number == 0
                layer.append(TResNetBlock(inputs, width, bottleneck=bottleneck, halve=halve, excite=stage < 3))
                inputs = width * 4 if bottleneck else width
            self.body.add_module(f"layer{stage + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 3, 5, 1, 2, 4).reshape(b, c * 16, h // 4, w // 4)
        return self.body(x).flatten(2).transpose(1, 2)


SMALL_TRESNETS = {"tresnet_cut": ((1, 2, 2, 1), False), "tresnet_v2_cut": ((1, 1, 2, 1), True)}


@pytest.fixture(scope="module", autouse=True)
def small_tresnets():
    """timm's TResNet in the sizes of SMALL_TRESNETS, known to timm by name."""
    for name, (blocks, v2) in SMALL_TRESNETS.items():

        def entry(pretrained=False, blocks=blocks, v2=v2, **options):
            variant = "tresnet_v2_l" if v2 else "tresnet_m"
            options = {"layers": list(blocks), "width_factor": 0.25, "v2": v2, **options}
            return timm_tresnet._create_tresnet(variant, pretrained=pretrained, **options)

        entry.__name__, entry.__module__ = name, timm_tresnet.__name__
        timm.models.register_model(entry)


def make_tresnet(v2: bool = False) -> tuple[dict[str, Tensor], nn.Module]:
    torch.manual_seed(2)
    blocks = SMALL_TRESNETS["tresnet_v2_cut" if v2 else "tresnet_cut"][0]
    model = OriginalTResNet(blocks, v2=v2).eval()
    return model.state_dict(), model


VIT = {"width": 192, "depth": 12, "heads": 3, "patch": 16}


def make_vit(grid: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """vit_tiny_patch16_224 under the names of timm 0.5, its class token kept."""
    draw, d = Draw(3), VIT["width"]
    state = {"cls_token": draw(1, 1, d), "pos_embed": draw(1, grid**2 + 1, d)}
    state |= {"patch_embed.proj.weight": draw(d, 3, 16, 16), "patch_embed.proj.bias": draw(d)}
    for i in range(VIT["depth"]):
        name = f"blocks.{i}"
        state |= draw.layer_norm(f"{name}.norm1", d) | draw.layer_norm(f"{name}.norm2", d)
        state |= draw.linear(f"{name}.attn.qkv", d, 3 * d) | draw.linear(f"{name}.attn.proj", d, d)
        state |= draw.linear(f"{name}.mlp.fc1", d, 4 * d) | draw.linear(f"{name}.mlp.fc2", 4 * d, d)
    state |= draw.layer_norm("norm", d)
    return state, state


def run_vit(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Features (B, 1 + P, D): the class token first."""

    def linear(name: str, value: Tensor) -> Tensor:
        return functional.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, value: Tensor) -> Tensor:
        return functional.layer_norm(value, value.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    x = functional.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    x = torch.cat((state["cls_token"].expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)), 1) + state["pos_embed"]
    for i in range(VIT["depth"]):
        name = f"blocks.{i}"
        qkv = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x))
        q, k, v = qkv.unflatten(-1, (3, VIT["heads"], -1)).permute(2, 0, 3, 1, 4)
        y = (torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, -1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(f"{name}.attn.proj", y)
        x = x + linear(f"{name}.mlp.fc2", functional.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x))))
    return norm("norm", x)


SWIN = {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7, "image_size": 224}


def position_index(window: int) -> Tensor:
    """(w * w, w * w): the row of the bias table for every pair of places in a window."""
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = (c[:, None] - c[None] + window - 1 for c in (y, x))
    return torch.from_numpy(dy * (2 * window - 1) + dx)


def attention_mask(side: int, window: int) -> Tensor:
    """(windows, w * w, w * w): -100 between places that only a cyclic shift by w // 2 made neighbours."""
    region = np.searchsorted([side - window, side - window // 2], np.arange(side), side="right")
    region = (3 * region[:, None] + region).reshape(side // window, window, side // window, window)
    region = region.transpose(0, 2, 1, 3).reshape(-1, window**2)
    return torch.from_numpy(np.where(region[:, :, None] == region[:, None], 0.0, -100.0)).float()


def make_swin() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """swin_tiny_patch4_window7_224 under the names of timm 0.5, with its tables and its unused classifier."""
    draw, window, side = Draw(4), SWIN["window"], SWIN["image_size"] // 4
    state = {"patch_embed.proj.weight": draw(96, 3, 4, 4), "patch_embed.proj.bias": draw(96)}
    state |= draw.layer_norm("patch_embed.norm", 96)
    for stage, (depth, heads) in enumerate(zip(SWIN["depths"], SWIN["heads"], strict=True)):
        d = SWIN["width"] * 2**stage
        for i in range(depth):
            name = f"layers.{stage}.blocks.{i}"
            state |= draw.layer_norm(f"{name}.norm1", d) | draw.layer_norm(f"{name}.norm2", d)
            state[f"{name}.attn.relative_position_bias_table"] = draw((2 * window - 1) ** 2, heads) * heads**0.5
            state[f"{name}.attn.relative_position_index"] = position_index(window)
            state |= draw.linear(f"{name}.attn.qkv", d, 3 * d) | draw.linear(f"{name}.attn.proj", d, d)
            state |= draw.linear(f"{name}.mlp.fc1", d, 4 * d) | draw.linear(f"{name}.mlp.fc2", 4 * d, d)
            if i % 2 and side > window:
                state[f"{name}.attn_mask"] = attention_mask(side, window)
        if stage < 3:
            state |= draw.layer_norm(f"layers.{stage}.downsample.norm", 4 * d)
            state[f"layers.{stage}.downsample.reduction.weight"] = draw(2 * d, 4 * d)
            side //= 2
    state |= draw.layer_norm("norm", 768) | draw.linear("head", 768, 9)
    return state, state


def run_swin(state: dict[str, Tensor], images: Tensor) -> Tensor:
    window = SWIN["window"]

    def linear(name: str, value: Tensor) -> Tensor:
        return functional.linear(value, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name: str, value: Tensor) -> Tensor:
        return functional.layer_norm(value, value.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = functional.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x = norm("patch_embed.norm", x.permute(0, 2, 3, 1))
    for stage, (depth, heads) in enumerate(zip(SWIN["depths"], SWIN["heads"], strict=True)):
        b, side, _, d = x.shape
        n = side // window
        for i in range(depth):
            name, mask = f"layers.{stage}.blocks.{i}", state.get(f"layers.{stage}.blocks.{i}.attn_mask")
            shift = window // 2 if mask is not None else 0
            y = norm(f"{name}.norm1", x).roll((-shift, -shift), (1, 2))
            y = y.view(b, n, window, n, window, d).transpose(2, 3).reshape(b * n * n, window**2, d)
            q, k, v = linear(f"{name}.attn.qkv", y).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            table, index = (state[f"{name}.attn.relative_position_{part}"] for part in ("bias_table", "index"))
            scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + table[index].permute(2, 0, 1)
            if mask is not None:
                scores = (scores.view(b, n * n, heads, *mask.shape[1:]) + mask[:, None]).view(scores.shape)
            y = linear(f"{name}.attn.proj", (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))
            y = y.view(b, n, n, window, window, d).transpose(2, 3).reshape(b, side, side, d)
            x = x + y.roll((shift, shift), (1, 2))
            x = x + linear(f"{name}.mlp.fc2", functional.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x))))
        if stage < 3:
            x = torch.cat((x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]), -1)
            x = linear(f"layers.{stage}.downsample.reduction", norm(f"layers.{stage}.downsample.norm", x))
    return norm("norm", x).flatten(1, 2)


# --- a whole checkpoint of each family --------------------------------------------------------------------------------


class Case:
    """A released checkpoint with its original: `state` under the released names, `logits(images)`, and its settings."""

    def __init__(self, family: str):
        self.family, self.pos, self.rm_cls = family, True, False
        make, run, self.arch, self.image_size, feat_dim, grid = {
            "resnet": (make_resnet, run_resnet, "resnet18", 96, 512, 3),
            "tresnet": (make_tresnet, lambda model, images: model(images), "tresnet_cut", 64, 512, 2),
            "tresnet_v2": (
                lambda: make_tresnet(True),
                lambda model, images: model(images),
                "tresnet_v2_cut",
                64,
                512,
                2,
            ),
            "vit": (make_vit, lambda *_: run_vit(*_)[:, 1:], "vit_tiny_patch16_224", 48, 192, 3),
            "vit_with_class_token": (make_vit, run_vit, "vit_tiny_patch16_224", 48, 192, 3),
            "swin": (make_swin, run_swin, "swin_tiny_patch4_window7_224", 224, 768, 7),
        }[family]
        self.pos = family != "vit_with_class_token"
        backbone, self.original = make()
        self.run, self.head = run, draw_head(Draw(9), feat_dim, (grid, grid))
        self.embeddings = Draw(10)(LABELS, EMBED_DIM) * EMBED_DIM**0.5
        self.state = {f"module.backbone.{key}": value for key, value in backbone.items()}
        self.state |= {f"module.{key}": value for key, value in self.head.items()}
        self.images = torch.randn(2, 3, self.image_size, self.image_size, generator=torch.Generator().manual_seed(5))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        return run_head(self.head, self.run(self.original, images), self.embeddings, pos=self.pos)

    def settings(self) -> dict:
        return {"arch": self.arch, "image_size": self.image_size, "pos": self.pos, "data": "unused"}

    def model(self, state: dict[str, Tensor]) -> nn.Module:
        """Our model with a converted state dict, loaded strictly."""
        model = build_model(self.settings(), pretrained=False, label_embeddings=self.embeddings)
        load_state(model, state, "the converted checkpoint")
        return model.eval()


FAMILIES = ("resnet", "tresnet", "tresnet_v2", "vit", "vit_with_class_token", "swin")


@pytest.fixture(scope="module")
def cases():
    made: dict[str, Case] = {}

    def get(family: str) -> Case:
        if family not in made:
            made[family] = Case(family)
        return made[family]

    return get


@torch.no_grad()
def distance(model: nn.Module, images: Tensor, logits: Tensor) -> float:
    return float((model(images).logits - logits).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_original_and_every_key_is_accounted_for(cases, family):
    case = cases(family)
    converted = convert_released(case.state)
    logits = case.logits(case.images)
    assert logits.std() > 0.05
    assert distance(case.model(converted), case.images, logits) < 1e-5
    added = {key for key in converted if key.endswith("num_batches_tracked")} if family.startswith("tresnet") else set()
    head_counters = {key for key in added if key.startswith("head.")}
    assert len(case.state) == len(converted) + len(converted.left_out) - len(added - head_counters)
    assert converted.left_out.keys() <= case.state.keys()
    bare = convert_released({key.removeprefix("module."): value for key, value in case.state.items()})
    assert bare.keys() == converted.keys()
    assert all(torch.equal(bare[key], converted[key]) for key in bare)


@pytest.mark.parametrize("family", FAMILIES)
def test_export_gives_the_released_names_back_and_the_same_logits(cases, family):
    case = cases(family)
    converted = convert_released(case.state)
    exported = export_released(converted, case.arch)
    assert exported.keys() <= case.state.keys()
    assert all(key in converted.left_out for key in case.state if key not in exported)
    assert not any(key.endswith(("_index", "_mask")) for key in case.state if key not in exported)
    assert all(exported[key].shape == case.state[key].shape for key in exported)
    if family.startswith("vit"):
        again = {key.removeprefix("module.backbone."): value for key, value in exported.items()}
        logits = run_head(case.head, case.run(again, case.images), case.embeddings, pos=case.pos)
    elif family == "swin":
        again = {key.removeprefix("module.backbone."): value for key, value in exported.items()}
        logits = run_head(case.head, run_swin(again, case.images), case.embeddings, pos=True)
    else:
        backbone = {k.removeprefix("module.backbone."): v for k, v in exported.items() if ".backbone." in k}
        before = {key: value.clone() for key, value in case.original.state_dict().items()}
        case.original.load_state_dict({**before, **backbone})
        logits = case.logits(case.images)
        case.original.load_state_dict(before)
    assert float((logits - case.logits(case.images)).abs().max()) < 1e-5
    assert distance(case.model(convert_released(exported)), case.images, logits) < 1e-5


def test_tresnet_scales_that_the_in_place_norm_cannot_say_are_moved_into_the_convolution(cases):
    case = cases("tresnet")
    model = case.model(convert_released(case.state))
    for number, (name, parameter) in enumerate(model.backbone.named_parameters()):
        if name.endswith("bn.weight"):  # negative, zero and tiny: training reaches all of them
            parameter.data[0::4] *= -1
            parameter.data[1::4] = 0.0 if number % 2 else 4e-6
    with torch.no_grad():
        logits = model(case.images).logits
    exported = export_released(model.state_dict(), "tresnet_cut")
    before = {key: value.clone() for key, value in case.original.state_dict().items()}
    backbone = {k.removeprefix("module.backbone."): v for k, v in exported.items() if ".backbone." in k}
    case.original.load_state_dict({**before, **backbone})
    try:
        assert float((case.logits(case.images) - logits).abs().max()) < 1e-5
    finally:
        case.original.load_state_dict(before)


def test_timm_renames_as_we_do(cases):
    """timm's own converters, which need the model, are an independent reading of the old names."""
    for family, ignored in (("tresnet", "num_batches_tracked"), ("vit", "head"), ("swin", "head")):
        case = cases(family)
        model = case.model(convert_released(case.state)).backbone
        convert = sys.modules[type(model).__module__].checkpoint_filter_fn
        prefix = "module.backbone."
        old = {key.removeprefix(prefix): value for key, value in case.state.items() if key.startswith(prefix)}
        old = {key: value for key, value in old.items() if not key.endswith("filt")}
        theirs = {key: value for key, value in convert(old, model).items() if ignored not in key}
        ours = {key: value for key, value in model.state_dict().items() if ignored not in key}
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_position_index_bent_by_averaging_integers_keeps_its_effect(cases):
    """The average of equal integers may be cut to the next lower one: the original then reads other biases."""
    case = cases("swin")
    bent, original = dict(case.state), dict(case.original)
    for key in case.state:
        if key.endswith("relative_position_index"):
            index = case.state[key].clone()
            for _ in range(3):
                index.copy_(0.9 * index + (1 - 0.9) * case.state[key])
            bent[key] = original[key.removeprefix("module.backbone.")] = index
    assert not torch.equal(index, position_index(7))
    with torch.no_grad():
        logits = run_head(case.head, run_swin(original, case.images), case.embeddings, pos=True)
    assert float((logits - case.logits(case.images)).abs().max()) > 1e-3
    converted = convert_released(bent)
    assert distance(case.model(converted), case.images, logits) < 1e-5
    assert "bent" in converted.left_out["module.backbone.layers.0.blocks.0.attn.relative_position_index"]


def test_tables_that_are_not_the_models_own_are_refused(cases):
    state = cases("swin").state
    index = "module.backbone.layers.0.blocks.0.attn.relative_position_index"
    for key, value in (
        (index, state[index].flip(0)),
        (index, state[index][:10]),
        (index, state[index] - 1),
        (index, state[index].float()),
        ("module.backbone.layers.0.blocks.1.attn_mask", torch.zeros(64, 49, 49)),
        ("module.backbone.layers.0.blocks.1.attn_mask", torch.zeros(3)),
    ):
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            convert_released(state | {key: value})
    filt = "module.backbone.body.layer2.0.conv1.1.op.filt"
    with pytest.raises(UserError, match="3 x 3 binomial filter"):
        convert_released(cases("tresnet").state | {filt: torch.ones(32, 1, 3, 3)})


def test_an_unknown_a_double_and_a_foreign_key_are_named(cases):
    state = cases("resnet").state
    for key in ("module.backbone.layer9.weight", "module.fc3.weight", "optimizer", "module.net5.0.weight", "fc.gamma"):
        with pytest.raises(UserError, match=f"does not have: '{key}'"):
            convert_released(state | {key: torch.zeros(1)})
    for key in ("fc.weight", "backbone.conv1.weight"):
        with pytest.raises(UserError, match=f"'{key}' twice"):
            convert_released(state | {key: torch.zeros(1)})
    with pytest.raises(UserError, match="no ResNet, TResNet, ViT or Swin"):
        convert_released({"module.backbone.stages.0.weight": torch.zeros(1)})
    for hostile in ({}, [], {"fc.weight": 3}, {3: torch.zeros(1)}, {"fc.weight": torch.zeros(2, 2).to_sparse()}):
        with pytest.raises(UserError, match="checkpoint"):
            convert_released(hostile)
    with pytest.raises(UserError, match="claims 1000000000000 numbers"):
        convert_released(state | {"module.fc.bias": torch.zeros(1).expand(10**12)})


def test_a_classifier_left_in_the_backbone_is_listed(cases):
    resnet = convert_released(cases("resnet").state)  # torchvision's fc is in it
    assert resnet.left_out == {
        "module.backbone.fc.weight": "the backbone's own classifier",
        "module.backbone.fc.bias": "the backbone's own classifier",
    }
    vit = cases("vit").state | {f"module.backbone.{k}": torch.zeros(2) for k in ("head.bias", "pre_logits.fc.weight")}
    assert set(convert_released(vit).left_out) == {"module.backbone.head.bias", "module.backbone.pre_logits.fc.weight"}
    assert not convert_released(cases("vit").state).left_out


def test_head_names_are_read_in_both_directions():
    for theirs, ours in HEAD_NAMES:
        for leaf in ("weight", "running_var"):
            name = theirs.replace("#", "12").replace("*", leaf)
            there = rename(name, HEAD_NAMES)
            assert there == ours.replace("#", "12").replace("*", leaf)
            assert rename(there, HEAD_NAMES, reverse=True) == name
    assert is_released({"module.fc2.0.weight": 0})
    assert not is_released({"head.patch_classifier.hidden.weight": 0, 3: 0})


def test_export_refuses_what_the_release_has_no_name_for(cases):
    case = cases("resnet")
    state = dict(convert_released(case.state))
    with pytest.raises(UserError, match="no backbone like convnext_atto"):
        export_released(state, "convnext_atto")
    with pytest.raises(UserError, match="not of vit_tiny_patch16_224"):
        export_released(state, "vit_tiny_patch16_224")
    with pytest.raises(UserError, match="not known to timm"):
        export_released(state, "resnet18x")
    with pytest.raises(UserError, match="has no name for"):
        export_released(state | {"head.extra": torch.zeros(1)}, "resnet18")
    del state["head.intra_modal.query.linear.weight"]
    with pytest.raises(UserError, match="whole SGRE head"):
        export_released(state, "resnet18")


# --- the folder as the authors ship it ----------------------------------------------------------------------------------


@pytest.fixture
def shipped(request, cases, tmp_path, monkeypatch):
    """(folder, case): an experiment folder as shipped, its dataset prepared in data/kitchen. ViT, or the parameter."""
    monkeypatch.chdir(tmp_path)
    case, prepared = cases(getattr(request, "param", "vit")), tmp_path / "data" / "kitchen"
    rng = np.random.default_rng(0)
    prepared.mkdir(parents=True)
    labels = ["cup", "fork", "knife", "pan", "plate"]
    (prepared / "label.txt").write_text("\n".join(labels) + "\n")
    for split in ("train", "test"):
        lines = []
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(prepared / f"{split}{number}.png")
            lines.append(f"{split}{number}.png\t{labels[number]},{labels[number + 2]}\n")
        (prepared / f"{split}.txt").write_text("".join(lines))
    np.save(prepared / "bert.npy", case.embeddings.numpy())
    folder = tmp_path / "exp1"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(case.state, folder / "checkpoints" / "best_ema_model.pth")
    (folder / "config.yaml").write_text(
        f"amp: false\narch: {case.arch}\nbatch_size: 128\ndata: kitchen\nembed_type: bert\nema_decay: 0.9983\n"
        f"exp_dir: experiments/mlic_kitchen/exp1\nimg_size: {case.image_size}\nlamda: 0.1\nloss: asl\nlr: 9e-05\n"
        "max_epoch: 60\nmodel: mlic\nnum_heads: 8\norid_norm: false\npos: true\nrm_cls: false\nsomething_else: [1, 2]\n"
    )
    return folder, case


@pytest.mark.parametrize("shipped", ["resnet", "tresnet", "vit"], indirect=True)
def test_a_shipped_folder_loads_with_the_same_logits(shipped):
    folder, case = shipped
    model, settings, labels = load_experiment(folder)
    assert settings.lr == 9e-5
    assert labels == ["cup", "fork", "knife", "pan", "plate"]
    assert not model.training
    assert distance(model, case.images, case.logits(case.images)) < 1e-5


def test_a_shipped_folder_evaluates_and_visualises_as_it_is(shipped, capsys):
    folder, case = shipped
    assert commands.main(["evaluate", "--exp-dir", str(folder), "--num-workers", "0", "--device", "cpu"]) == 0
    pixels = []
    for number in range(3):
        photo = Image.open(folder.parent / "data" / "kitchen" / f"test{number}.png").resize((48, 48), Image.BILINEAR)
        pixels.append(np.asarray(photo, np.float32).transpose(2, 0, 1) / 255)
    mean, deviation = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    logits = case.logits(torch.from_numpy((np.stack(pixels) - mean) / deviation))
    np.testing.assert_allclose(np.load(folder / "scores.npy"), torch.sigmoid(logits).numpy(), atol=1e-5)
    assert (folder / "result.json").exists()
    arguments = ["visualize", "--exp-dir", str(folder), "--limit", "1", "--device", "cpu"]
    assert commands.main(arguments) == 0
    assert any((folder / "visualization").iterdir())


def refusal(folder) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(UserError) as caught:
        load_experiment(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_label_embeddings_are_asked_for_by_name(shipped):
    folder, case = shipped
    bert = folder.parent / "data" / "kitchen" / "bert.npy"
    np.save(bert, np.zeros((5, 7), np.float32))
    assert "vectors of 7 numbers, but the checkpoint was trained with 12" in refusal(folder)
    bert.unlink()
    line = refusal(folder)
    assert "5 x 12 bert label embeddings" in line
    assert "data/kitchen/bert.npy" in line
    assert f"put them at {folder / 'label_embeddings.npy'}" in line
    np.save(folder / "label_embeddings.npy", case.embeddings.numpy())
    assert distance(load_experiment(folder)[0], case.images, case.logits(case.images)) < 1e-5


def test_trained_label_embeddings_come_from_the_file(cases, shipped):
    folder, case = shipped
    draw = Draw(11)
    state = case.state | {"module.embeddings": draw(LABELS, 768), "module.attention.linear2.weight": draw(1024, 768)}
    path = folder / "checkpoints" / "best_ema_model.pth"
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("bert", "random"))
    assert "no label embeddings, but its config.yaml says they were trained" in refusal(folder)
    torch.save(state, path)
    model, *_ = load_experiment(folder)
    assert torch.equal(model.head.label_embeddings, state["module.embeddings"])


def test_another_number_of_labels_or_grid_is_one_clear_line(shipped):
    folder, _ = shipped
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("img_size: 48", "img_size: 64"))
    line = refusal(folder)
    assert "grid of 3 x 3 patches, but config.yaml (image_size 64) gives 4 x 4; it fits --image-size 48" in line
    (folder / "config.yaml").write_text(config)
    labels = folder.parent / "data" / "kitchen" / "label.txt"
    labels.write_text(labels.read_text() + "spoon\n")
    assert "trained with 5 labels" in refusal(folder)


def test_missing_and_misshapen_entries_are_one_clear_line(shipped):
    folder, case = shipped
    path = folder / "checkpoints" / "best_ema_model.pth"
    torch.save({k: v for k, v in case.state.items() if k != "module.backbone.blocks.2.norm1.weight"}, path)
    assert "has no entry backbone.blocks.2.norm1.weight" in refusal(folder)
    torch.save(case.state | {"module.fc2.3.weight": torch.zeros(5, 3)}, path)
    assert "head.patch_classifier.output.weight has shape (5, 3), the model's has (5, 384)" in refusal(folder)
    torch.save(case.state | {"module.fc9.weight": torch.zeros(1)}, path)
    assert "does not have: 'module.fc9.weight'" in refusal(folder)
    torch.save({"head.position_map": 3, 7: "x"}, path)
    assert "has no entry" in refusal(folder)


class Bomb:
    """Unpickled, it would make the file `ran`."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_hostile_or_cut_off_checkpoint_is_refused_and_runs_nothing(shipped, tmp_path):
    folder, case = shipped
    path = folder / "checkpoints" / "best_ema_model.pth"
    whole = path.read_bytes()
    for new_format in (True, False):
        torch.save({**case.state, "module.fc.bias": Bomb()}, path, _use_new_zipfile_serialization=new_format)
        assert "mkdir" in refusal(folder)
        torch.save({"a": torch.zeros(9)}, path, _use_new_zipfile_serialization=new_format)
        small = path.read_bytes()
        for length in (0, 1, 60, len(small) // 2, len(small) - 1):
            path.write_bytes(small[:length])
            assert str(path) in refusal(folder)
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(folder)
    rng = np.random.default_rng(1)
    for _ in range(60):  # damaged anywhere: refused, whatever torch makes of it
        broken = np.frombuffer(small, np.uint8).copy()
        broken[rng.integers(len(broken), size=4)] = rng.integers(256, size=4)
        path.write_bytes(broken.tobytes())
        refusal(folder)
    path.write_bytes(b"<html>404</html>" * 9)
    refusal(folder)
    torch.save([1, 2], path)
    assert "holds a list" in refusal(folder)
    path.unlink()
    assert "is missing" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_a_config_with_python_tags_is_refused_and_runs_nothing(shipped, tmp_path, capsys):
    folder, _ = shipped
    for text in (
        "data: !!python/object/apply:os.mkdir [ran]\n",
        "data: kitchen\nlr: !!python/object/new:os.mkdir [ran]\n",
        "data: kitchen\narch: !!python/name:os.system\n",
    ):
        with pytest.raises(yaml.YAMLError):
            yaml.safe_load(text)
        (folder / "config.yaml").write_text(text)
        assert commands.main(["evaluate", "--exp-dir", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "config.yaml" in error
    assert not (tmp_path / "ran").exists()


def test_reading_a_file_of_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file({"a": torch.arange(3)}, path)
    assert read_checkpoint(path)["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)
