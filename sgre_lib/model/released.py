"""Checkpoints that the paper's authors release: the way from them to this project's, and back.

A released file is the moving average's state dict under the names of `released_names`. Fixed label embeddings are not in
the file.
"""

import logging
import math
import re
from functools import cache
from pathlib import Path

import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor

from ..base.errors import UserError
from .backbones import timm_name
from .checkpoints import is_plain_tensor, read_checkpoint
from .released_names import FAMILIES, HEAD_NAMES, rename, shift_downsample, whole_names

ABN_EPS = 1e-5
"""TResNet's in-place activated batch norm scales by abs(weight) + this."""

LOG = logging.getLogger("sgre_lib.experiment")


class ConvertedState(dict):
    """A state dict under other names. `left_out`: each key of the source that has no counterpart -> why."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: dict[str, str] = {}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint under this project's names, whoever wrote it; of a last.pth the moving average."""
    state = read_checkpoint(path)
    if isinstance(state.get("average"), dict):
        state = state["average"]
    if not is_released(state):
        return state
    try:
        state = convert_released(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for key, reason in state.left_out.items():
        LOG.info("%s: %s is left out: %s", path, key, reason)
    return state


def is_released(state: dict) -> bool:
    """Whether a state dict has the released names rather than this project's."""
    sign = re.compile(r"(module\.)?(fc2\.0|attention\.linear1|net1\.0)\.weight")
    return any(isinstance(key, str) and sign.fullmatch(key) for key in state)


def convert_released(state_dict: dict[str, Tensor]) -> ConvertedState:
    """A released checkpoint's state dict under this project's names, `backbone.*` and `head.*`: same outputs.

    Keys may start with `module.` or not; the backbone's family is told by its names. Every key is translated, or is
    listed in the result's `left_out` with the reason; tables that the model computes itself are first checked to be
    the same. One that is not known raises UserError with its name. Tensors are shared, except where the form differs:
    a 1x1 convolution (D, D, 1) becomes the matrix (D, D) of a linear layer, and TResNet's batch norm weights become
    abs(weight) + 1e-5, the scale in effect. TResNet's batch norms also get the counter that the original has not.
    """
    if not isinstance(state_dict, dict) or not state_dict:
        raise UserError("a released checkpoint is a dictionary of named tensors, and not empty")
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"a released checkpoint holds named tensors, but {key!r} is a {type(value).__name__}")
        if not is_plain_tensor(value):
            raise UserError(f"the checkpoint's {key!r} is not a tensor of plain numbers")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():  # a view that repeats a few
            raise UserError(f"the checkpoint's {key!r} claims {value.numel()} numbers and holds fewer")
    state, result = dict(state_dict), ConvertedState()
    family = _find_family(state)
    pairs = whole_names(family)
    if family == "swin":
        _unbend_position_index(state, result)
    # As timm tells them apart: only the old names of Swin have a downsample in the first stage.
    shift = int(any(key.endswith("backbone.layers.0.downsample.reduction.weight") for key in state))
    for key, value in state.items():
        name = key.removeprefix("module.")
        ours = rename(name, pairs)
        if ours is None:
            result.left_out.setdefault(key, _reason_to_leave_out(family, key, value))
            continue
        ours = shift_downsample(ours, shift)
        if ours in result:
            raise UserError(
                f"the checkpoint has {key!r} twice, under two names (with and without module., or old and new)"
            )
        if re.fullmatch(r"net\d\.0\.weight", name) and value.dim() == 3:
            value = value.squeeze(-1)
        result[ours] = value.abs() + ABN_EPS if family == "tresnet" and ours.endswith(".bn.weight") else value
    if family == "tresnet":
        for ours in [ours for ours in result if ours.endswith(".bn.running_mean")]:
            # In-place ABN counts no batches. With a fixed momentum the counter takes no part in anything.
            result.setdefault(ours.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return result


def _find_family(state: dict[str, Tensor]) -> str | None:
    """The family of a released backbone, told by its names; None where there is only a head."""
    keys = {key.removeprefix("module."): key for key in state}
    first = next((key for name, key in keys.items() if name.startswith("backbone.")), None)
    found = next((name for name, family in FAMILIES.items() if f"backbone.{family.sign}" in keys), None)
    if first is not None and found is None:
        raise UserError(
            f"the checkpoint's backbone is no ResNet, TResNet, ViT or Swin under their released names: it has no "
            f"{', '.join(family.sign for family in FAMILIES.values())}; its first key is {first!r}"
        )
    return found


def _reason_to_leave_out(family: str | None, key: str, value: Tensor) -> str:
    """Why a released entry has no place in the model; UserError where none is known, or where it is another table."""
    name = key.removeprefix("module.backbone.").removeprefix("backbone.")
    patterns = FAMILIES[family].left_out if family and name != key.removeprefix("module.") else {}
    reason = next((reason for pattern, reason in patterns.items() if rename(name, ((pattern, pattern),))), None)
    if reason is None:
        raise UserError(f"the checkpoint has a key that SGRE's release does not have: {key!r}")
    if name.endswith("attn_mask") and not _is_attention_mask(value):
        raise UserError(f"the checkpoint's {key!r} is not the mask of a Swin with shifted windows")
    if name.endswith("filt"):
        row = torch.tensor([0.25, 0.5, 0.25])
        # The moving average drifts by rounding.
        same = value.shape[1:] == (1, 3, 3) and torch.allclose(value.float(), row[:, None] * row, atol=1e-3)
        if not same:
            raise UserError(f"the checkpoint's {key!r} is not TResNet's 3 x 3 binomial filter")
    return reason


def _is_attention_mask(mask: Tensor) -> bool:
    """Whether (windows, w * w, w * w) is timm's mask of shifted w x w windows on a square map."""
    if mask.dim() != 3 or mask.numel() == 0:
        return False
    window, count = math.isqrt(mask.shape[1]), math.isqrt(mask.shape[0])
    computed = swin_tables(window, window * count, shifted=True)[1]
    # -100 and -101 both end as zero after the softmax: the moving average drifts by rounding.
    return computed is not None and computed.shape == mask.shape and torch.allclose(mask.float(), computed, atol=1.0)


@cache
def swin_tables(window: int, side: int, *, shifted: bool) -> tuple[Tensor, Tensor | None]:
    """The position index and attention mask that timm computes for a block of `window` on a map of `side` squared.

    The index is (w * w, w * w) integers, the mask (windows, w * w, w * w) of 0 and -100, or None where nothing is
    shifted.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        block = SwinTransformerBlock(1, (side, side), 1, window_size=window, shift_size=window // 2 if shifted else 0)
    return block.attn.relative_position_index, block.attn_mask


def _unbend_position_index(state: dict[str, Tensor], result: ConvertedState) -> None:
    """Check Swin's position indices; where the moving average has bent one, put it into the bias table instead.

    The release averages every entry of the state dict, and an average of equal integers that falls short of them by
    rounding is cut to the next lower one: with some decays (0.9, not the published ones) an index v ends as v - 1. The
    bias in effect is table[index], so the table that the model needs is the old one read at the bent index.
    """
    for key in [key for key in state if key.endswith(".relative_position_index")]:
        index, place = state[key], key.removesuffix("index") + "bias_table"
        table = state.get(place, torch.empty(0))
        window = math.isqrt(len(index)) if index.dim() == 2 else 0
        own = window > 0 and index.shape == (window**2, window**2) and not index.is_floating_point()
        own = own and table.dim() == 2 and len(table) == (2 * window - 1) ** 2
        own = own and bool(index.amin() >= 0) and bool(index.amax() < len(table))
        if own:
            computed = swin_tables(window, window, shifted=False)[0]
            bent = torch.empty(len(table), dtype=torch.long)
            bent[computed.flatten()] = index.flatten().long()
            own = torch.equal(bent[computed], index)
        if not own:
            raise UserError(f"the checkpoint's {key!r} is not the position index of a Swin window")
        if not torch.equal(index, computed):
            state[place] = table[bent]
            result.left_out[key] = (
                "bent by the moving average of integers; relative_position_bias_table is read through it"
            )


def export_released(state_dict: dict[str, Tensor], arch: str) -> ConvertedState:
    """A state dict of this project's under the released names, every key with `module.`: the inverse of
    `convert_released`.

    arch: the backbone, of one of the four families. Tables that the authors' models keep in the state dict are
    computed; batch counters, which TResNet's in-place batch norm has not, are in `left_out`. That norm cannot say a
    scale below 1e-5: there, sign and size go into the convolution before it, which gives the same outputs in evaluation
    mode. The authors' ViT and Swin also carry their ImageNet classifier (`head.*`), which nothing uses; none is made up.
    Raises UserError for another backbone, another head than the whole SGRE head, and an unknown key.
    """
    module = timm.model_entrypoint(timm_name(arch).partition(".")[0]).__module__.rpartition(".")[2]
    family = {"vision_transformer": "vit", "swin_transformer": "swin"}.get(module, module)
    if family not in FAMILIES:
        raise UserError(f"the release has no backbone like {arch}: it has ResNet, TResNet, ViT and Swin")
    pairs = whole_names(family)
    sign = rename(f"backbone.{FAMILIES[family].sign}", pairs)
    if sign not in state_dict:
        raise UserError(f"this state dict is not of {arch}: it has no {sign}")
    for _, ours in HEAD_NAMES:
        if not set("#*") & set(ours) and ours != "label_embeddings" and f"head.{ours}" not in state_dict:
            raise UserError(f"only the whole SGRE head has released names: this state dict has no head.{ours}")
    state, result = _express_scales(state_dict) if family == "tresnet" else state_dict, ConvertedState()
    for key, value in state.items():
        if family == "tresnet" and key.startswith("backbone.") and key.endswith(".num_batches_tracked"):
            result.left_out[key] = "in-place activated batch norm counts no batches"
            continue
        theirs = rename(shift_downsample(key, -1) if family == "swin" else key, pairs, reverse=True)
        if theirs is None:
            raise UserError(f"the release has no name for {key!r}")
        if family == "tresnet":
            theirs = _deepen(theirs, state)
        result[f"module.{theirs}"] = value[..., None] if re.fullmatch(r"net\d\.0\.weight", theirs) else value
    if family == "swin":
        _add_swin_tables(result, state["head.position_map"].shape[-1])
    return result


def _deepen(name: str, state: dict[str, Tensor]) -> str:
    """A released TResNet name, one level deeper where an anti-aliasing filter follows.

    That is where a stage after the first halves the map: in its first block, the 3x3 convolution before the last one.
    """
    match = re.fullmatch(r"(backbone\.body\.layer[2-9]\.0)\.conv(\d)\.(.+)", name)
    if not match:
        return name
    halving = "2" if f"{match[1]}.conv3.conv.weight" in state else "1"
    return f"{match[1]}.conv{match[2]}.0.{match[3]}" if match[2] == halving else name


def _express_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """TResNet's entries with batch norm weights w' such that abs(w') + 1e-5 is the scale in effect.

    A scale s that is negative or below 1e-5 becomes 1e-5 or more, and the convolution's output and the running mean
    are multiplied by the rest of it: s (x - m) = s' (f x - f m) for f = s / s'.
    """
    state = dict(state)
    for key in [key for key in state if key.startswith("backbone.") and key.endswith(".bn.weight")]:
        scale = state[key]
        state[key] = (scale.abs() - ABN_EPS).clamp(min=0)
        factor = scale.sign() * (scale.abs() / ABN_EPS).clamp(max=1)
        convolution, mean = key.replace(".bn.", ".conv."), key.replace(".bn.weight", ".bn.running_mean")
        state[convolution] = state[convolution] * factor[:, None, None, None]
        state[mean] = state[mean] * factor
    return state


def _add_swin_tables(result: ConvertedState, last_side: int) -> None:
    """Add the position indices and attention masks that timm 0.5 and 0.6 kept. last_side: of the last stage's map."""
    table_name = re.compile(r"(module\.backbone\.layers\.(\d+)\.blocks\.(\d+))\.attn\.relative_position_bias_table")
    found = [(match, result[key]) for key in list(result) if (match := table_name.fullmatch(key))]
    last = max(int(match[2]) for match, _ in found)
    for match, table in found:
        window, side = (math.isqrt(len(table)) + 1) // 2, last_side * 2 ** (last - int(match[2]))
        index, mask = swin_tables(window, side, shifted=int(match[3]) % 2 == 1 and side > window)
        result[f"{match[1]}.attn.relative_position_index"] = index
        if mask is not None:
            result[f"{match[1]}.attn_mask"] = mask
