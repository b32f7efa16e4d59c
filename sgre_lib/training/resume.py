"""What a run starts from: its own last state, where settings and data are still the same, or another model's weights."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..base.config import read_config
from ..base.errors import UserError
from ..base.places import find_file
from ..base.settings import MachineSettings, TrainSettings, option_flag
from ..datasets.prepared import PreparedDataset
from ..model.checkpoints import load_state
from ..model.released import read_weights
from .processes import started_by_torchrun

CLASSIFIERS = ("head.object_classifier.", "head.patch_classifier.", "head.classifier.")
"""Parts of a model that `--pretrained-model` does not take over: they belong to the labels."""


def was_restarted(folder: Path | None) -> bool:
    """Whether torchrun has started this process anew after another one's death."""
    if not started_by_torchrun() or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    if folder is None:
        raise UserError("torchrun --max-restarts needs --exp-dir: a restarted run must find its folder again")
    return True


def resumed_settings(
    folder: Path, asked: Mapping[str, Any], asked_machine: Mapping[str, Any]
) -> tuple[TrainSettings, MachineSettings]:
    """The settings of the experiment to go on with; where the caller asks for another result, UserError.

    asked, asked_machine: what the caller says, by name. A setting that is left out is not asked for: `--resume --exp-dir
    DIR` alone goes on. Of the machine anything may differ.
    """
    stored, machine, _ = read_config(folder / "config.yaml")
    for name, wanted in asked.items():
        kept = getattr(stored, name)
        if wanted != kept:
            raise UserError(f"--resume: {option_flag(name)} {wanted} differs from {kept} in {folder / 'config.yaml'}")
    return stored, machine.replace(**asked_machine)


def check_resumed_data(folder: Path, prepared: PreparedDataset, embeddings: np.ndarray | None) -> None:
    """UserError where the prepared dataset or its label embeddings changed since the experiment in `folder` began."""
    more = read_config(folder / "config.yaml").more
    then = (more.get("derived") or {}).get("data_fingerprint")
    if then not in (None, prepared.fingerprint()):
        raise UserError(f"--resume: the lists in {prepared.folder} have changed since {folder} was begun")
    stored = folder / "label_embeddings.npy"
    if embeddings is not None and stored.exists() and not np.array_equal(np.load(stored), embeddings):
        raise UserError(f"--resume: the label embeddings of {prepared.folder} have changed since {folder} was begun")


def load_pretrained(model: nn.Module, file: str) -> None:
    """Take the weights of another model of this method, all but the classifiers; trained label embeddings where they fit.

    file: a checkpoint of ours (a last.pth gives its moving average) or of the released code. UserError where it is not
    of a model with the same backbone and head.
    """
    source = find_file(file)
    state = read_weights(source)
    own, embeddings = model.state_dict(), "head.label_embeddings"
    parts = (*CLASSIFIERS, "head.position_map")  # a position map follows from the grid
    if getattr(state.get(embeddings), "shape", None) != getattr(own.get(embeddings), "shape", None):
        parts += (embeddings,)
    kept = {name: value for name, value in own.items() if name.startswith(parts)}
    load_state(model, {name: state[name] for name in state if not name.startswith(parts)} | kept, source)
