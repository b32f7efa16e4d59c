"""Weights of a backbone from a local file, whatever names its tensors have."""

import sys
from pathlib import Path

from torch import Tensor, nn

from ..base.errors import UserError
from .checkpoints import load_state, read_checkpoint


def load_backbone_weights(backbone: nn.Module, path: str | Path) -> None:
    """Load a local file of weights into a backbone.

    Entries are matched by name: timm's and torchvision's, the names of an original release that timm converts itself
    (with its `checkpoint_filter_fn`, which also fits position embeddings to the grid), or the `backbone.*` part of an
    SGRE checkpoint. Where the names are another project's, entries are matched by order; kind and shape must then agree
    for every one. Entries of a classifier are left out.
    Raises UserError, naming the first entry at fault, where neither way fits.
    """
    path = Path(path).expanduser()
    state = _weights_in(path)
    wanted = backbone.state_dict()
    needed = {key for key in wanted if not _is_counter(key)}
    named = next((found for found in (_renamed_by_timm(backbone, state), state) if needed <= found.keys()), None)
    if named is None:
        chosen = _match_by_order(wanted, state, path)
    else:
        extra = [key for key in named if key not in wanted and not _is_expendable(key, backbone)]
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise UserError(f"{path} has {extra[0]}{more}, which this backbone has not: another model's")
        chosen = {key: named[key] for key in wanted if key in named}
    load_state(backbone, wanted | chosen, path)


def _weights_in(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file of weights, out of whatever they are wrapped in."""
    content = read_checkpoint(path)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    for prefix in ("module.", "backbone."):
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        state = inside or state
    return state


def _renamed_by_timm(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` as timm's own loader would see it; empty where timm has no converter for this model, or it fails."""
    try:
        return sys.modules[type(backbone).__module__].checkpoint_filter_fn(dict(state), backbone)
    except Exception:  # written for other files: the names then speak for themselves
        return {}


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _is_expendable(key: str, backbone: nn.Module) -> bool:
    """Whether an entry is of a classifier, or is a table that the model computes itself."""
    named = (getattr(backbone, "default_cfg", None) or {}).get("classifier") or ()
    classifiers = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    parts = key.split(".")
    return (
        key.startswith(classifiers)
        or parts[0] in ("fc", "head", "head_dist", "classifier", "pre_logits", "fc_norm")
        or parts[-1] in ("num_batches_tracked", "relative_position_index", "attn_mask", "filt")
    )


def _match_by_order(wanted: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Entries of `state` under the names of `wanted`, first to first. At most four may be left, a classifier's."""
    # Counters of seen batches are missing from older files and take no part.
    ours, theirs = ([key for key in entries if not _is_counter(key)] for entries in (wanted, state))
    kinds = ("weight", "bias", "running_mean", "running_var")
    matched = dict(zip(ours, theirs, strict=False))
    for our, their in matched.items():
        kind, other = our.rpartition(".")[2], their.rpartition(".")[2]
        if wanted[our].shape != state[their].shape or (kind != other and kind in kinds and other in kinds):
            raise UserError(
                f"{path} does not hold this backbone's weights, by name or by order: {their} "
                f"{tuple(state[their].shape)} stands where {our} {tuple(wanted[our].shape)} should"
            )
    if not 0 <= len(theirs) - len(ours) <= 4:
        raise UserError(
            f"{path} does not hold this backbone's weights: {len(theirs)} entries, where the model has {len(ours)}"
        )
    return {our: state[their] for our, their in matched.items()}
