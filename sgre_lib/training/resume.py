"""What a run starts from, and what its folder says of it: written at the start, held against it when it is resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..base.config import read_config, write_config
from ..base.errors import UserError
from ..base.files import write_array, write_text
from ..base.places import find_file
from ..base.provenance import code_version, package_versions
from ..base.settings import MachineSettings, TrainSettings, option_flag
from ..datasets.prepared import PreparedDataset
from ..model.build import PatchModel, count_parameters
from ..model.checkpoints import load_state
from ..model.released import read_weights
from .processes import Processes, started_by_torchrun
from .progress import LOG

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


def write_description(
    folder: Path,
    settings: TrainSettings,
    machine: MachineSettings,
    prepared: PreparedDataset,
    embeddings: np.ndarray | None,
    model: PatchModel,
    processes: Processes,
) -> None:
    """config.yaml, label.txt and label_embeddings.npy, and the same once for the person watching."""
    counts, batch = count_parameters(model), settings.batch_size // processes.world
    train_images, test_images = (len(prepared.read_list(name)[0]) for name in ("train", "test"))
    steps = -(-train_images // settings.batch_size)
    write_config(
        folder / "config.yaml", settings, machine, train_images=train_images, test_images=test_images,
        labels=len(prepared.labels), steps_an_epoch=steps, grid=list(model.head.grid), parameters=counts,
        processes=processes.world, batch_a_process=batch, images_at_a_time=batch // settings.accumulate,
        device=str(processes.device), data_fingerprint=prepared.fingerprint(), code_version=code_version(),
        versions=package_versions(),
    )  # fmt: skip
    write_text(folder / "label.txt", "".join(f"{label}\n" for label in prepared.labels))
    if embeddings is not None:
        write_array(folder / "label_embeddings.npy", embeddings)
    LOG.info("experiment %s", folder)
    if model.patches.prefix_tokens and model.patches.rm_cls and not settings.rm_cls:
        LOG.info("--pos: the class token of %s is removed, the position map has no place for it", settings.arch)
    LOG.info("settings %s", " ".join([*settings.arguments(), *machine.arguments()]))
    LOG.info(
        "%d training and %d test images, %d labels; %d steps an epoch of %d images; %.2f M parameters; grid %dx%d; %s",
        train_images, test_images, len(prepared.labels), steps, settings.batch_size, counts["total"] / 1e6,
        *model.head.grid, processes.device,
    )  # fmt: skip
