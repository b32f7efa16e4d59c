"""The names in the checkpoints that the paper's authors release, beside this project's: tables read in both directions.

Keys are `module.backbone.*`, and `module.*` for the head. ResNet has torchvision's names, ViT and Swin those of timm 0.5
and 0.6, TResNet those of its authors.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

Pairs = tuple[str | tuple[str, str], ...]
"""(released name, ours) of entries; a single name is the same on both sides. `#` stands for a number, `*` for a leaf."""

LEAVES = "weight|bias|running_mean|running_var|num_batches_tracked"

HEAD_NAMES: Pairs = (
    ("position_embedding.pe", "position_map"),
    ("embeddings", "label_embeddings"),
    ("encoder.layers.#.self_attn.in_proj_weight", "encoder.layers.#.attention.in_proj_weight"),
    ("encoder.layers.#.self_attn.in_proj_bias", "encoder.layers.#.attention.in_proj_bias"),
    ("encoder.layers.#.self_attn.out_proj.*", "encoder.layers.#.attention.out_proj.*"),
    ("encoder.layers.#.linear1.*", "encoder.layers.#.expand.*"),
    ("encoder.layers.#.linear2.*", "encoder.layers.#.contract.*"),
    ("encoder.layers.#.norm1.*", "encoder.layers.#.attention_norm.*"),
    ("encoder.layers.#.norm2.*", "encoder.layers.#.feedforward_norm.*"),
    ("attention.linear1.weight", "inter_modal.project_patches.weight"),
    ("attention.linear2.weight", "inter_modal.project_labels.weight"),
    ("attention.hidden_linear.*", "inter_modal.hidden.*"),
    ("attention.target_linear.*", "inter_modal.target.*"),
    ("fc.*", "object_classifier.*"),
    ("fc2.0.*", "patch_classifier.hidden.*"),
    ("fc2.3.*", "patch_classifier.output.*"),
    ("net1.0.weight", "intra_modal.query.linear.weight"),
    ("net2.0.weight", "intra_modal.key.linear.weight"),
    ("net3.0.weight", "intra_modal.value.linear.weight"),
    ("net4.0.weight", "intra_modal.context.linear.weight"),
    ("net1.1.*", "intra_modal.query.norm.*"),
    ("net2.1.*", "intra_modal.key.norm.*"),
    ("net3.1.*", "intra_modal.value.norm.*"),
    ("net4.1.*", "intra_modal.context.norm.*"),
)


class Family(NamedTuple):
    """How one family of backbones is named.

    sign: (released name, timm 1.x name) of an entry that every member has and no other family. left_out: (pattern of
    released names that have no place in the model, why).
    """

    sign: tuple[str, str]
    names: Pairs
    left_out: tuple[tuple[str, str], ...]


FAMILIES = {
    "resnet": Family(
        sign=("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        names=(
            "conv1.weight",
            "conv1.#.*",  # a stem of several layers, as timm's smaller relatives have
            "bn1.*",
            "layer#.#.conv#.weight",
            "layer#.#.bn#.*",
            "layer#.#.downsample.#.*",
        ),
        left_out=(("fc.*", "the backbone's own classifier"),),
    ),
    "tresnet": Family(
        sign=("body.conv1.0.weight", "body.conv1.conv.weight"),
        names=(
            ("body.conv1.0.weight", "body.conv1.conv.weight"),
            ("body.conv1.1.*", "body.conv1.bn.*"),
            ("body.layer#.#.conv#.0.weight", "body.layer#.#.conv#.conv.weight"),
            ("body.layer#.#.conv#.1.*", "body.layer#.#.conv#.bn.*"),
            # Where an anti-aliasing filter follows, convolution and norm sit one level deeper.
            ("body.layer#.#.conv#.0.0.weight", "body.layer#.#.conv#.conv.weight"),
            ("body.layer#.#.conv#.0.1.*", "body.layer#.#.conv#.bn.*"),
            ("body.layer#.#.downsample.#.0.weight", "body.layer#.#.downsample.#.conv.weight"),
            ("body.layer#.#.downsample.#.1.*", "body.layer#.#.downsample.#.bn.*"),
            "body.layer#.#.se.fc#.*",
        ),
        left_out=(
            ("head.fc.*", "the backbone's own classifier"),
            ("body.layer#.#.conv#.1.op.filt", "the anti-aliasing filter, which the model computes itself"),
            ("body.layer#.#.conv#.1.filt", "the anti-aliasing filter, which the model computes itself"),
        ),
    ),
    "vit": Family(
        sign=("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"),
        names=(
            "cls_token",
            "pos_embed",
            "patch_embed.proj.*",
            "blocks.#.norm#.*",
            "blocks.#.attn.qkv.*",
            "blocks.#.attn.proj.*",
            "blocks.#.mlp.fc#.*",
            "norm.*",
        ),
        left_out=(
            ("head.*", "the backbone's own classifier"),
            ("pre_logits.fc.*", "a layer of the backbone's own classifier"),
        ),
    ),
    "swin": Family(
        sign=("layers.0.blocks.0.attn.qkv.weight", "layers.0.blocks.0.attn.qkv.weight"),
        names=(
            "patch_embed.proj.*",
            "patch_embed.norm.*",
            "layers.#.blocks.#.norm#.*",
            "layers.#.blocks.#.attn.qkv.*",
            "layers.#.blocks.#.attn.proj.*",
            "layers.#.blocks.#.attn.relative_position_bias_table",
            "layers.#.blocks.#.mlp.fc#.*",
            "layers.#.downsample.norm.*",  # the number is shifted, see `shift_downsample`
            "layers.#.downsample.reduction.weight",
            "norm.*",
        ),
        left_out=(
            ("head.*", "the backbone's own classifier"),
            ("layers.#.blocks.#.attn.relative_position_index", "a table that the model computes from its window"),
            ("layers.#.blocks.#.attn_mask", "a table that the model computes from its windows"),
        ),
    ),
}
"""The four families of backbones in the release, by the name of their module in timm (`vit` is vision_transformer)."""


@cache
def _compile(pairs: Pairs, reverse: bool = False) -> tuple[tuple[re.Pattern, str], ...]:
    """Patterns and replacements from pairs of names."""
    compiled = []
    for pair in pairs:
        source, target = (pair, pair) if isinstance(pair, str) else pair[::-1] if reverse else pair
        pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", f"({LEAVES})")
        groups = iter(range(1, 9))
        compiled.append((re.compile(pattern), re.sub(r"[#*]", lambda _, numbers=groups: rf"\{next(numbers)}", target)))
    return tuple(compiled)


def rename(name: str, pairs: Pairs, *, reverse: bool = False) -> str | None:
    """The other side's name of an entry, by pairs as in `HEAD_NAMES`; None where no pair fits."""
    for pattern, replacement in _compile(pairs, reverse):
        match = pattern.fullmatch(name)
        if match:
            return match.expand(replacement)
    return None


def shift_downsample(name: str, by: int) -> str:
    """A Swin entry with the stage of its `downsample` shifted.

    timm 0.5 and 0.6 merged patches at the end of a stage, timm 1.x does at the start of the next.
    """
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) + by}.downsample.", name)
