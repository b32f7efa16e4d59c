"""What a resumed run may change, and what must be as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base.config import read_config
from ..base.errors import UserError
from ..base.settings import MachineSettings, TrainSettings, option_flag
from ..datasets.prepared import PreparedDataset


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
