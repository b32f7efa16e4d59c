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

import contextlib
import itertools
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from ..base.config import read_config
from ..base.errors import UserError
from ..base.files import read_lines
from ..base.places import working_root
from ..base.settings import TrainSettings
from ..datasets.label_embeddings import check_label_embeddings, read_label_embeddings
from ..datasets.prepared import PreparedDataset, prepared_folder
from .build import PatchModel, build_model
from .checkpoints import load_state
from .released import read_weights

BEST = "checkpoints/best_ema_model.pth"
LAST = "checkpoints/last.pth"
PREVIOUS = "checkpoints/previous.pth"


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
    for number in itertools.count(max(taken, default=0) + 1):
        with contextlib.suppress(FileExistsError):
            (parent / f"exp{number}").mkdir()
            return parent / f"exp{number}"


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
    own = None if data is None else PreparedDataset(data).folder.resolve()

    def fits(exp_dir: Path) -> bool:
        settings = read_config(exp_dir / "config.yaml").settings
        of_data = own is None or prepared_folder(settings.data).resolve() == own
        return of_data and (keep is None or keep(settings))

    found = [path.parent.parent for path in folder.rglob(BEST)]
    if data is not None or keep is not None:
        found = [path for path in found if fits(path)]
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
    source, label_file, vectors = folder / BEST, folder / "label.txt", folder / "label_embeddings.npy"
    state = read_weights(source)
    dataset = cache(partial(open_dataset, folder, data, data_root))  # only where the folder itself does not say
    if label_file.exists():
        labels = [line.strip() for line in read_lines(label_file, "the list of labels")]
    else:
        labels, label_file = dataset().labels, dataset().folder / "label.txt"
    trained = _shape(state, "head.object_classifier.bias")[:1]
    if trained and trained[0] != len(labels):
        raise UserError(f"{source} was trained with {trained[0]} labels, but {label_file} has {len(labels)}")
    embeddings: np.ndarray | None = None
    if settings.model == "mlic" and settings.branches != "patch" and "head.label_embeddings" not in state:
        if settings.embed_type == "random" and not vectors.exists():
            raise UserError(f"{source} has no label embeddings, but its config.yaml says they were trained")
        embed_dim = _shape(state, "head.inter_modal.project_labels.weight")[1:2]
        prepared = None if vectors.exists() else dataset()
        embeddings = _find_label_embeddings(vectors, settings.embed_type, prepared, (len(labels), *embed_dim))
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


def _shape(state: dict, name: str) -> tuple[int, ...]:
    """The shape of an entry of a state dict; () where there is no such entry."""
    return tuple(getattr(state.get(name), "shape", ()))


def _find_label_embeddings(
    own: Path, embed_type: str, prepared: PreparedDataset | None, shape: tuple[int, ...]
) -> np.ndarray:
    """The fixed label embeddings that an experiment was trained with: its own copy, else (prepared) the dataset's.

    shape: (L, T), or (L,) where the checkpoint does not say T. UserError says which array is missing, and where it is
    looked for.
    """
    if prepared is None:
        embeddings, source = check_label_embeddings(own, shape[0]), own
    else:
        try:
            embeddings, source = read_label_embeddings(embed_type, prepared), f"the {embed_type} label embeddings"
        except UserError as error:
            of_shape = f"{shape[0]} x {shape[1]} " if shape[1:] else ""
            raise UserError(
                f"the checkpoint was trained with fixed {of_shape}{embed_type} label embeddings, which are not in it: "
                f"put them at {own}, or mend this: {error}"
            ) from None
    width = embeddings.shape[1]
    if shape[1:] not in ((), (width,)):
        raise UserError(f"{source} are vectors of {width} numbers, but the checkpoint was trained with {shape[1]}")
    return embeddings


def _check_grid(model: PatchModel, settings: TrainSettings, state: dict, source: Path) -> None:
    """UserError where a checkpoint was trained on another grid of patches than its settings give."""
    (height, width), shape = model.head.grid, _shape(state, "head.position_map")
    if len(shape) == 4 and shape[2:] != (height, width):
        trained = f"; it fits --image-size {settings.image_size * shape[2] // height}" if shape[2] == shape[3] else ""
        raise UserError(
            f"{source} was trained on a grid of {shape[2]} x {shape[3]} patches, but config.yaml (image_size "
            f"{settings.image_size}) gives {height} x {width}{trained}"
        )
