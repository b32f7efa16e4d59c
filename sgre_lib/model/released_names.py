"""The names in the checkpoints that the paper's authors release, beside this project's: tables read in both directions.

Keys are `module.backbone.*`, and `module.*` for the head. ResNet has torchvision's names, ViT and Swin those of timm 0.5
and 0.6, TResNet those of its authors.
"""

import re
from functools import cache
from typing import NamedTuple

Pairs = tuple[tuple[str, str], ...]
"""(released name, ours) of entries. `#` stands for a number, `*` for a leaf."""

LEAVES = "weight|bias|running_mean|running_var|num_batches_tracked"

HEAD_NAMES: Pairs = (
    ("position_embedding.pe", "position_map"),
    ("embeddings", "label_embeddings"),
    ("encoder.layers.#.self_attn.in_proj_*", "encoder.layers.#.attention.in_proj_*"),
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
    *(
        (f"net{number}.{theirs}", f"intra_modal.{block}.{ours}")
        for number, block in enumerate(("query", "key", "value", "context"), 1)
        for theirs, ours in (("0.weight", "linear.weight"), ("1.*", "norm.*"))
    ),
)


class Family(NamedTuple):
    """How one family of backbones is named.

    sign: the released name of an entry that every member has and no other family. names: pairs; a single name is the
    same on both sides. left_out: released names that have no place in the model, and why.
    """

    sign: str
    names: tuple[str | tuple[str, str], ...]
    left_out: dict[str, str]


CLASSIFIER = "the backbone's own classifier"
FILTER = "the anti-aliasing filter, which the model computes itself"
BLOCK = ("norm#.*", "attn.qkv.*", "attn.proj.*", "mlp.fc#.*")
"""A transformer block, of ViT and of Swin."""

FAMILIES = {
    "resnet": Family(
        sign="layer1.0.conv1.weight",
        # conv1.#: a stem of several layers, as timm's smaller relatives have.
        names=(
            "conv1.weight",
            "conv1.#.*",
            "bn1.*",
            "layer#.#.conv#.weight",
            "layer#.#.bn#.*",
            "layer#.#.downsample.#.*",
        ),
        left_out={"fc.*": CLASSIFIER},
    ),
    "tresnet": Family(
        sign="body.conv1.0.weight",
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
        left_out={
            "head.fc.*": CLASSIFIER,
            "body.layer#.#.conv#.1.op.filt": FILTER,
            "body.layer#.#.conv#.1.filt": FILTER,
        },
    ),
    "vit": Family(
        sign="blocks.0.attn.qkv.weight",
        names=("cls_token", "pos_embed", "patch_embed.proj.*", *(f"blocks.#.{part}" for part in BLOCK), "norm.*"),
        left_out={"head.*": CLASSIFIER, "pre_logits.fc.*": "a layer of the backbone's own classifier"},
    ),
    "swin": Family(
        sign="layers.0.blocks.0.attn.qkv.weight",
        names=(
            "patch_embed.proj.*",
            "patch_embed.norm.*",
            *(f"layers.#.blocks.#.{part}" for part in (*BLOCK, "attn.relative_position_bias_table")),
            "layers.#.downsample.norm.*",  # the number is shifted, see `shift_downsample`
            "layers.#.downsample.reduction.weight",
            "norm.*",
        ),
        left_out={
            "head.*": CLASSIFIER,
            "layers.#.blocks.#.attn.relative_position_index": "a table that the model computes from its window",
            "layers.#.blocks.#.attn_mask": "a table that the model computes from its windows",
        },
    ),
}
"""The four families of backbones in the release, by the name of their module in timm (`vit` is vision_transformer)."""


def whole_names(family: str | None) -> Pairs:
    """The pairs of a model with a backbone of this family, `backbone.*` and ours with `head.*`; None: of a head alone."""
    head = [(theirs, f"head.{ours}") for theirs, ours in HEAD_NAMES]
    pairs = [(pair, pair) if isinstance(pair, str) else pair for pair in (FAMILIES[family].names if family else ())]
    return (*head, *((f"backbone.{theirs}", f"backbone.{ours}") for theirs, ours in pairs))


@cache
def _pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name).replace(r"\#", r"(\d+)").replace(r"\*", f"({LEAVES})"))


def rename(name: str, pairs: Pairs, *, reverse: bool = False) -> str | None:
    """The other side's name of an entry, by pairs as in `HEAD_NAMES`; None where no pair fits."""
    for pair in pairs:
        source, target = pair[::-1] if reverse else pair
        if match := _pattern(source).fullmatch(name):
            return re.sub("[#*]", "{}", target).format(*match.groups())
    return None


def shift_downsample(name: str, by: int) -> str:
    """A Swin entry with the stage of its `downsample` shifted.

    timm 0.5 and 0.6 merged patches at the end of a stage, timm 1.x does at the start of the next.
    """
    return re.sub(r"\.layers\.(\d+)\.downsample\.", lambda match: f".layers.{int(match[1]) + by}.downsample.", name)
