"""Training: the released recipe, on one or several processes, that can be stopped and resumed at any batch.

What an epoch sees is a function of (seed, epoch, image); what it computes, of the state in `last.pth`. A run that was
stopped and resumed on a CPU therefore ends with the weights of an undisturbed one, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.device import choose_device
from ..base.errors import Stopped, UserError
from ..base.files import folder_lock
from ..base.places import find_file
from ..base.settings import MachineSettings, TrainSettings, check_share, split_settings
from ..datasets.label_embeddings import read_label_embeddings
from ..datasets.prepared import PreparedDataset
from ..images.cache import check_cache_room
from ..model.build import PatchModel, build_model
from ..model.experiment import LAST, PREVIOUS, check_experiment_folder, claim_experiment_folder
from .description import log_to, write_description
from .history import check_tensorboard, read_history
from .launch import ProcessDied, launch
from .loop import Trainer
from .processes import join_processes, started_by_torchrun
from .resume import check_resumed_data, resumed_settings

LOG = logging.getLogger("sgre_lib.training")


@dataclass
class TrainResult:
    """What `train` returns: the experiment folder, its history (a dictionary an epoch), and the best epoch's numbers."""

    exp_dir: Path
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, float]:
        """The row of the epoch whose EMA model was kept."""
        return max(self.history, key=lambda row: row["ema_mAP"])


def train(
    settings: TrainSettings | None = None,
    machine: MachineSettings | None = None,
    *,
    exp_dir: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], object] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a model and return its experiment folder and history.

    options: fields of `TrainSettings` and `MachineSettings` by name (`data` is needed), over those given whole. exp_dir:
    the experiment folder; default the next free experiments/<model>_<data>/exp<N>. resume: go on from its last
    checkpoint, with its settings. With `processes` above 1 the processes are started from here, in a notebook as in a
    shell; under `torchrun` this process is one of them, and goes on from the last checkpoint by itself when torchrun has
    restarted it. on_epoch: called with the history after every epoch, for a live curve.
    Raises UserError, before anything is written, for what can be known before the run starts; NonFiniteLoss where the
    loss stops being a number; Stopped, after saving, on Ctrl-C or SIGTERM.
    """
    folder = None if exp_dir is None else Path(exp_dir).expanduser()
    resume = resume or _is_restarted(folder)
    check_experiment_folder(folder, resume)
    of_training, of_machine = split_settings(options)
    asked = (settings.changed() if settings else {}) | of_training
    asked_machine = (machine.changed() if machine else {}) | of_machine
    if resume:
        settings, machine = resumed_settings(folder, asked, asked_machine)
    else:
        settings, machine = TrainSettings(**asked), MachineSettings(**asked_machine)
    settings, machine = settings.check(), machine.check()
    check_share(settings, machine.processes)
    if settings.backbone_weights and not find_file(settings.backbone_weights).is_file():
        raise UserError(f"--backbone-weights {settings.backbone_weights} is not a file")
    if machine.tensorboard:
        check_tensorboard()
    prepared = PreparedDataset(settings.data, machine.data_root)
    embeddings = read_label_embeddings(settings.embed_type, prepared) if settings.model == "mlic" else None
    splits = {name: prepared.split(name) for name in ("train", "test")}
    local_processes = max(machine.processes, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    check_cache_room(machine.cache, [split.paths for split in splits.values()], settings.image_size, local_processes)
    if resume:
        check_resumed_data(folder, prepared, embeddings)
    device = choose_device(machine.device)
    if machine.processes > 1 and not started_by_torchrun():
        if device.type == "cuda" and (":" in machine.device or machine.processes > torch.cuda.device_count()):
            raise UserError(
                f"--processes {machine.processes} needs a CUDA device each: there are {torch.cuda.device_count()}, and "
                f"--device {machine.device} must not name one"
            )
        _build(settings, resume, prepared, embeddings)  # what cannot be built is refused before a folder is claimed
        folder = claim_experiment_folder(folder, settings.model, prepared.name)
        words = [*settings.arguments(), *machine.arguments(), "--exp-dir", str(folder)]
        try:
            with _following(folder, on_epoch):
                launch(["train", *words, *(["--resume"] if resume else [])], machine.processes)
        except ProcessDied as error:
            raise Stopped(f"{error}; --resume --exp-dir {folder} goes on") from None
        return TrainResult(folder, read_history(folder))
    processes = join_processes(machine.device)
    try:
        check_share(settings, processes.world)
        torch.manual_seed(settings.seed)
        model = _build(settings, resume, prepared, embeddings)
        # Every process has drawn the same initial weights; from here on their dropout differs.
        torch.manual_seed(settings.seed + 1000 * processes.rank)
        claimed = claim_experiment_folder(folder, settings.model, prepared.name) if processes.is_main else None
        folder = processes.broadcast(claimed)
        with contextlib.ExitStack() as stack:
            if processes.is_main:
                stack.enter_context(folder_lock(folder, "training"))
                stack.enter_context(log_to(folder / "train.log"))
                write_description(folder, settings, machine, prepared, embeddings, model, processes)
            stack.enter_context(_chosen_algorithms(settings.deterministic))
            trainer = Trainer(
                settings, machine, model, splits, folder, processes, resume=resume,
                progress=progress and processes.is_main, on_epoch=on_epoch,
            )  # fmt: skip
            return TrainResult(folder, trainer.fit())
    finally:
        processes.close()


def _is_restarted(folder: Path | None) -> bool:
    """Whether torchrun has started this process anew after another one's death, and something was saved before."""
    if not started_by_torchrun() or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    if folder is None:
        raise UserError("torchrun --max-restarts needs --exp-dir: a restarted run must find its folder again")
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


@contextlib.contextmanager
def _following(folder: Path, on_epoch: Callable | None):
    """Call `on_epoch` for every epoch that other processes add to a folder's history."""
    ended = threading.Event()

    def follow() -> None:
        known = 0
        while not ended.wait(1.0):
            with contextlib.suppress(UserError):
                history = read_history(folder)
                if len(history) > known:
                    known = len(history)
                    on_epoch(history)

    thread = threading.Thread(target=follow, daemon=True)
    if on_epoch is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if on_epoch is not None:
            thread.join()
            with contextlib.suppress(UserError):
                on_epoch(read_history(folder))


@contextlib.contextmanager
def _chosen_algorithms(deterministic: bool):
    """PyTorch's switches for a run, put back afterwards: reproducible algorithms, or cuDNN's fastest of the same math."""
    enabled, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA is first used
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled)
        torch.backends.cudnn.benchmark = benchmark


def _build(
    settings: TrainSettings, resume: bool, prepared: PreparedDataset, embeddings: np.ndarray | None
) -> PatchModel:
    # A resumed run's weights come from its checkpoint.
    pretrained = False if resume else None
    return build_model(settings, pretrained, label_embeddings=embeddings, label_count=len(prepared.labels))
