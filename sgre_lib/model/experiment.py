"""The experiment folder: what one training run writes, and what evaluation, heatmaps and users read back.

    config.yaml                  every setting, and derived values for information
    train.log, history.csv       what happened; a row an epoch
    label.txt                    the labels, in index order
    label_embeddings.npy         fixed label embeddings (absent where they are trained)
    checkpoints/last.pth         everything that --resume needs
    checkpoints/previous.pth     the last.pth before it, for when a disk damages that one
    checkpoints/best_ema_model.pth   the moving average with the best test mAP
    result.*, prediction.txt, scores.npy, targets.npy, visualization/   after evaluate and visualize

A folder from the paper's authors has config.yaml and checkpoints/best_ema_model.pth under their key names; labels and
label embeddings are then taken from the prepared dataset.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from ..base.config import read_config
from ..base.errors import UserError
from ..base.files import read_lines
from ..base.places import working_root
from ..base.settings import TrainSettings
from ..datasets.label_embeddings import check_label_embeddings, read_label_embeddings
from ..datasets.prepared import PreparedDataset, prepared_folder
from .build import PatchModel, build_model
from .checkpoints import load_state, read_checkpoint
from .released import convert_released, is_released

BEST = "checkpoints/best_ema_model.pth"

LAST = "checkpoints/last.pth"

PREVIOUS = "checkpoints/previous.pth"

LOG = logging.getLogger("sgre_lib.experiment")


def claim_experiment_folder(exp_dir: Path | None, model: str, data_name: str) -> Path:
    """Make the folder of an experiment and return it: `exp_dir`, or the next free `exp<N>` of this model and dataset.

    Making a folder succeeds for one process only, so two runs that start together get different numbers.
    """
    if exp_dir is not None:
        exp_dir.mkdir(parents=True, exist_ok=True)
        return exp_dir
    parent = working_root() / "experiments" / f"{model}_{data_name}"
    parent.mkdir(parents=True, exist_ok=True)
    taken = [int(p.name[3:]) for p in parent.glob("exp*") if p.name[3:].isdigit()]
    number = max(taken, default=0) + 1
    while True:
        try:
            (parent / f"exp{number}").mkdir()
            return parent / f"exp{number}"
        except FileExistsError:
            number += 1


def check_experiment_folder(exp_dir: Path | None, resume: bool) -> bool:
    """Whether a run goes on from what is saved in `--exp-dir`: with `--resume`, where a state is there.

    UserError where the folder cannot be begun, because it holds an experiment and no state or no `--resume`.
    """
    if exp_dir is None:
        if resume:
            raise UserError("--resume needs --exp-dir, the folder to go on with")
        return False
    if exp_dir.exists() and not exp_dir.is_dir():
        raise UserError(f"--exp-dir {exp_dir} is a file")
    begun = [name for name in (LAST, PREVIOUS, BEST, "history.csv") if (exp_dir / name).exists()]
    if begun and not resume:
        raise UserError(
            f"--exp-dir {exp_dir} already holds an experiment ({begun[0]}): add --resume, or choose another"
        )
    if begun and begun[0] not in (LAST, PREVIOUS):
        raise UserError(f"--resume: {exp_dir / LAST} is missing, there is nothing to go on from")
    return bool(begun)


def latest_experiment(
    data: str | os.PathLike | None = None, *, keep: Callable[[TrainSettings], bool] | None = None
) -> Path:
    """The experiment trained last under `experiments/`, rows of tables included (on `data`, where that is given).

    What a notebook works on when it is not told which. keep: says of an experiment's settings whether it will do.
    Raises UserError where there is none.
    """
    folder = working_root() / "experiments"
    found = [path.parent.parent for path in folder.rglob(BEST)]
    if data is not None:
        wanted = PreparedDataset(data).folder.resolve()
        found = [
            path
            for path in found
            if prepared_folder(read_config(path / "config.yaml").settings.data).resolve() == wanted
        ]
    if keep is not None:
        found = [path for path in found if keep(read_config(path / "config.yaml").settings)]
    if not found:
        wanted = "" if keep is None else " of the kind asked for"
        raise UserError(f"no trained experiment{wanted} under {folder}: run 03_train first, or give exp_dir")
    return max(found, key=lambda path: (path / BEST).stat().st_mtime)


def open_dataset(
    exp_dir: str | os.PathLike, data: str | os.PathLike | None = None, data_root: str | os.PathLike | None = None
) -> PreparedDataset:
    """The prepared dataset of an experiment, or `data` instead.

    Its photos are looked for below `data_root`, else SGRE_DATA_ROOT, else (for its own dataset) the root it was trained
    with, else as for any dataset.
    """
    if data is not None:
        return PreparedDataset(data, data_root)
    stored = read_config(Path(exp_dir).expanduser() / "config.yaml")
    if data_root is None and "SGRE_DATA_ROOT" not in os.environ:
        data_root = stored.machine.data_root
    return PreparedDataset(stored.settings.data, data_root)


def load_experiment(
    exp_dir: str | os.PathLike, *, data: str | os.PathLike | None = None, data_root: str | os.PathLike | None = None
) -> tuple[PatchModel, TrainSettings, list[str]]:
    """The best EMA model of an experiment (evaluation mode, on the CPU), its settings, and its labels.

    exp_dir: one of ours or one released by the paper's authors, which is told by the names in its checkpoint. data: the
    prepared dataset for labels and label embeddings, where the folder does not hold them (default: the one named in its
    config.yaml). Nothing in the folder is executed. Raises UserError where something is missing or does not fit.
    """
    folder = Path(exp_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"--exp-dir {folder} does not exist")
    settings = read_config(folder / "config.yaml").settings
    source = folder / BEST
    state = _read_state(source)
    prepared: PreparedDataset | None = None
    if (folder / "label.txt").exists():
        labels = [line.strip() for line in read_lines(folder / "label.txt", "the list of labels")]
    else:
        prepared = open_dataset(folder, data, data_root)
        labels = prepared.labels
    label_count = _length(state, "head.object_classifier.bias", 0)
    if label_count not in (None, len(labels)):
        where = folder / "label.txt" if prepared is None else prepared.folder / "label.txt"
        raise UserError(f"{source} was trained with {label_count} labels, but {where} has {len(labels)}")
    embeddings: np.ndarray | None = None
    if settings.model == "mlic" and settings.branches != "patch" and "head.label_embeddings" not in state:
        if settings.embed_type == "random" and not (folder / "label_embeddings.npy").exists():
            raise UserError(f"{source} has no label embeddings, but its config.yaml says they were trained")
        if prepared is None and not (folder / "label_embeddings.npy").exists():
            prepared = open_dataset(folder, data, data_root)
        embed_dim = _length(state, "head.inter_modal.project_labels.weight", 1)
        embeddings = _find_label_embeddings(folder, settings.embed_type, prepared, (len(labels), embed_dim))
    model = build_model(settings, pretrained=False, label_embeddings=embeddings, label_count=len(labels))
    _check_grid(model, settings, state, source)
    load_state(model, state, source)
    return model.eval(), settings, labels


def open_experiment(
    exp_dir: str | os.PathLike, data: str | os.PathLike | None = None, data_root: str | os.PathLike | None = None
) -> tuple[PatchModel, TrainSettings, PreparedDataset]:
    """The best model of an experiment and its settings as `load_experiment` gives them, and `open_dataset`'s dataset.

    Raises UserError where the dataset has other labels than the experiment.
    """
    model, settings, labels = load_experiment(exp_dir, data=data, data_root=data_root)
    prepared = open_dataset(exp_dir, data, data_root)
    if prepared.labels != labels:
        raise UserError(f"{prepared.folder / 'label.txt'} has other labels than the experiment {exp_dir}")
    return model, settings, prepared


def _read_state(source: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint under this project's names, whoever wrote it."""
    state = read_checkpoint(source)
    if not is_released(state):
        return state
    try:
        state = convert_released(state)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    for key, reason in state.left_out.items():
        LOG.info("%s: %s is left out: %s", source, key, reason)
    return state


def _length(state: dict, name: str, axis: int) -> int | None:
    """The length of an entry of a state dict along an axis; None where there is no such entry or axis."""
    shape = getattr(state.get(name), "shape", ())
    return shape[axis] if len(shape) > axis else None


def _find_label_embeddings(
    folder: Path, embed_type: str, prepared: PreparedDataset | None, shape: tuple[int, int | None]
) -> np.ndarray:
    """The fixed (L, T) label embeddings that an experiment was trained with: its own copy, else the dataset's.

    UserError says which array is missing, and where it is looked for.
    """
    own = folder / "label_embeddings.npy"
    if own.exists():
        embeddings, source = check_label_embeddings(own, shape[0]), own
    else:
        try:
            embeddings, source = read_label_embeddings(embed_type, prepared), f"the {embed_type} label embeddings"
        except UserError as error:
            of_shape = f"{shape[0]} x {shape[1]} " if shape[1] else ""
            raise UserError(
                f"the checkpoint was trained with fixed {of_shape}{embed_type} label embeddings, which are not in it: "
                f"put them at {own}, or mend this: {error}"
            ) from None
    if shape[1] not in (None, embeddings.shape[1]):
        raise UserError(
            f"{source} are vectors of {embeddings.shape[1]} numbers, but the checkpoint was trained with {shape[1]}"
        )
    return embeddings


def _check_grid(model: PatchModel, settings: TrainSettings, state: dict, source: Path) -> None:
    """UserError where a checkpoint was trained on another grid of patches than its settings give."""
    height, width = model.head.grid
    shape = getattr(state.get("head.position_map"), "shape", ())
    if len(shape) == 4 and tuple(shape[2:]) != (height, width):
        trained = f"; it fits --image-size {settings.image_size * shape[2] // height}" if shape[2] == shape[3] else ""
        raise UserError(
            f"{source} was trained on a grid of {shape[2]} x {shape[3]} patches, but config.yaml (image_size "
            f"{settings.image_size}) gives {height} x {width}{trained}"
        )
