"""What a resumed run may change, and what must be as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.settings import TrainSettings, read_config
from ..datasets.prepared import PreparedDataset
from ..model.experiment import check_experiment_folder


def resumed_settings(asked: TrainSettings) -> TrainSettings:
    """The settings of the experiment to go on with; where the caller asks for another result, UserError.

    Only what does not belong to the result may differ: device, processes, num_workers, cache, data_root, tensorboard,
    save_minutes.
    """
    check_experiment_folder(asked)
    stored, _ = read_config(Path(asked.exp_dir).expanduser() / "config.yaml")
    free = {
        "device",
        "processes",
        "num_workers",
        "cache",
        "data_root",
        "tensorboard",
        "save_minutes",
        "exp_dir",
        "resume",
    }
    defaults = TrainSettings()
    for name in vars(asked):
        wanted, kept = getattr(asked, name), getattr(stored, name)
        # A setting left at its default was not asked for: `--resume --exp-dir DIR` alone goes on.
        if name not in free and wanted not in (kept, getattr(defaults, name)):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"--resume: {flag} {wanted} differs from {kept} in {asked.exp_dir}/config.yaml")
    changed = {name: getattr(asked, name) for name in free if getattr(asked, name) != getattr(defaults, name)}
    return stored.replace(**changed).check()


def check_resumed_data(folder: Path, prepared: PreparedDataset, embeddings: np.ndarray | None) -> None:
    """UserError where the prepared dataset or its label embeddings changed since the experiment in `folder` began."""
    _, more = read_config(folder / "config.yaml")
    then = (more.get("derived") or {}).get("data_fingerprint")
    if then not in (None, prepared.fingerprint()):
        raise UserError(f"--resume: the lists in {prepared.folder} have changed since {folder} was begun")
    stored = folder / "label_embeddings.npy"
    if embeddings is not None and stored.exists() and not np.array_equal(np.load(stored), embeddings):
        raise UserError(f"--resume: the label embeddings of {prepared.folder} have changed since {folder} was begun")
