"""Checkpoints: reading that executes nothing, writing that cannot be cut in half, loading that leaves nothing open."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..base.errors import UserError
from ..base.files import keep_previous, open_atomic


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dictionary in a checkpoint file, on the CPU: `torch.save`'s, or a `.safetensors`.

    Only tensors and plain values are unpickled (`weights_only`), so nothing in the file is executed. Raises UserError
    for a file that is missing, cut off or damaged, that holds any other object, or that holds no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the checkpoint {path} is missing")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with warnings.catch_warnings():
                # Of a damaged file torch warns that its protocol is odd, and then fails: one message is enough.
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's text goes on to recommend loading without the safeguard.
        named = re.search(r"(?:GLOBAL|class) ([\w.]+\.\w+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise UserError(
            f"the checkpoint {path} is damaged, or holds objects other than tensors and plain values{what}, "
            "which could run code: it was not loaded"
        ) from None
    # Whatever else reading foreign bytes ends in (torch raises eight types and more) means that they are no checkpoint.
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read: {reason_of(error)[:160]}") from None
    if not isinstance(content, dict):
        raise UserError(f"the checkpoint {path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def reason_of(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def write_checkpoint(path: str | Path, content: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint in one step: the old file stays until the new one is whole and on the disk.

    keep: where the old file goes then, instead of being lost. Raises OSError where the disk is full or broken.
    """
    with open_atomic(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # PyTorch's writer hides what the system said
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        if keep is not None:
            file.flush()
            keep_previous(path, keep)


def is_plain_tensor(value: Any) -> bool:
    """Whether an entry of a state dict is a tensor of numbers that lie in memory as its shape says."""
    return (
        isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_quantized or value.is_complex())
    )


def load_state(model: torch.nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load a state dict strictly; a missing, unexpected or wrongly shaped entry is one UserError line naming it."""
    wanted = model.state_dict()
    for problem, names in (("has no", wanted.keys() - state.keys()), ("has an unknown", state.keys() - wanted.keys())):
        if names:
            first = min(str(name) for name in names)
            raise UserError(f"{source} {problem} entry {first[:100]} ({len(names)} such): another model wrote it")
    for name, tensor in wanted.items():
        if not is_plain_tensor(state[name]):
            raise UserError(f"{source}: {name} is not a tensor of plain numbers")
        ours, theirs = tuple(tensor.shape), tuple(state[name].shape)
        if ours != theirs:
            raise UserError(f"{source}: {name} has shape {theirs}, the model's has {ours}")
    model.load_state_dict(state)
