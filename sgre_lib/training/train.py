"""A training run from its options to a finished experiment: check at the door, data, model, recipe, loop.

What an epoch sees is a function of (seed, epoch, image); what it computes, of the state in `last.pth`. A run that was
stopped and resumed on a CPU therefore ends with the weights of an undisturbed one, bit for bit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.device import choose_device
from ..base.errors import Stopped, UserError
from ..base.lock import folder_lock
from ..base.places import find_file
from ..base.settings import MachineSettings, TrainSettings, check_share, option_flag, option_words, split_settings
from ..datasets.label_embeddings import read_label_embeddings
from ..datasets.prepared import PreparedDataset, Split
from ..images.cache import check_cache_room, open_cache
from ..images.dataloader import PhotoDataset, make_loader, worker_count
from ..images.sampler import TrainingBatches
from ..images.transforms import make_transform
from ..model.build import PatchModel, build_model
from ..model.compilation import compile_model
from ..model.experiment import check_experiment_folder, claim_experiment_folder
from ..model.precision import autocast
from .ema import MovingAverage
from .history import Events, check_tensorboard, following_history, read_history
from .launch import ProcessDied, launch
from .loop import Loaders, Trainer
from .losses import make_loss
from .processes import Processes, join_processes, started_by_torchrun
from .progress import LOG, log_to
from .recipe import Schedule, make_optimizer
from .resume import (
    check_resumed_data,
    load_pretrained,
    resumed_settings,
    was_restarted,
    write_description,
)  # fmt: skip
from .state import Checkpoints, RunState
from .stopping import Stopping


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
    the experiment folder; default the next free experiments/<model>_<data>/exp<N>. resume: go on from what is saved
    there, with its settings; where nothing is, start. With `processes` above 1 the processes are started from here, in
    a notebook as in a shell; under `torchrun` this process is one of them, and goes on from the last checkpoint by
    itself when torchrun has restarted it. on_epoch: called with the history after every epoch, for a live curve.
    Raises UserError, before anything is written, for what can be known before the run starts; NonFiniteLoss where the
    loss stops being a number; Stopped, after saving, on Ctrl-C or SIGTERM.
    """
    order = check_order(settings, machine, exp_dir, resume, options)
    data = open_data(order)
    if order.machine.processes > 1 and not started_by_torchrun():
        return train_in_processes(order, data, on_epoch)
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(contextlib.closing(join_processes(order.machine.device)))
        check_share(order.settings, processes.world)
        model = make_model(order, data, processes.rank)
        folder = stack.enter_context(open_folder(order, data, model, processes))
        stack.enter_context(choosing_algorithms(order.settings.deterministic))
        trainer = make_trainer(order.settings, order.machine, model, data.splits, folder, processes)
        trainer.progress, trainer.on_epoch = progress and processes.is_main, on_epoch
        if order.goes_on:
            trainer.checkpoints.restore(trainer.state)
            LOG.info("resumed at epoch %d, batch %d", trainer.state.epoch, trainer.state.batch)
        else:
            trainer.save()  # killed in its first epoch, the run can still go on
        if order.machine.tensorboard and processes.is_main:
            trainer.events = stack.enter_context(contextlib.closing(Events(folder, trainer.steps_done)))
        return TrainResult(folder, trainer.fit())


# --- At the door -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What is asked for, checked. exp_dir: None for the next free one. goes_on: from what is saved there."""

    settings: TrainSettings
    machine: MachineSettings
    exp_dir: Path | None
    resume: bool
    goes_on: bool


def check_order(
    settings: TrainSettings | None,
    machine: MachineSettings | None,
    exp_dir: str | os.PathLike | None,
    resume: bool,
    options: Mapping[str, Any],
) -> Order:
    """What `train` is asked for, or UserError for what is wrong with it whatever the data are."""
    folder = None if exp_dir is None else Path(exp_dir).expanduser()
    resume = resume or was_restarted(folder)
    goes_on = check_experiment_folder(folder, resume)
    of_training, of_machine = split_settings(options)
    asked = (settings.changed() if settings else {}) | of_training
    asked_machine = (machine.changed() if machine else {}) | of_machine
    if goes_on:
        settings, machine = resumed_settings(folder, asked, asked_machine)
    else:
        settings, machine = TrainSettings(**asked), MachineSettings(**asked_machine)
    if resume and not goes_on and not settings.data:
        raise UserError(f"--resume: nothing is saved in {folder} yet, and --data is missing to start")
    settings, machine = settings.check(), machine.check()
    check_share(settings, machine.processes)
    for name in ("backbone_weights", "pretrained_model"):
        file = getattr(settings, name)
        if file and not goes_on and not find_file(file).is_file():
            raise UserError(f"{option_flag(name)} {file} is not a file")
    if machine.tensorboard:
        check_tensorboard()
    return Order(settings, machine, folder, resume, goes_on)


# --- Data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """What is trained on. embeddings: (L, T), fixed; None where they are trained or not used."""

    prepared: PreparedDataset
    embeddings: np.ndarray | None
    splits: dict[str, Split]


def open_data(order: Order) -> Data:
    """The prepared dataset, or UserError for what is wrong with it, or with the device and the memory that it needs."""
    settings, machine = order.settings, order.machine
    prepared = PreparedDataset(settings.data, machine.data_root)
    embeddings = read_label_embeddings(settings.embed_type, prepared) if settings.model == "mlic" else None
    splits = {name: prepared.split(name) for name in ("train", "test")}
    local_processes = max(machine.processes, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    check_cache_room(machine.cache, [split.paths for split in splits.values()], settings.image_size, local_processes)
    if order.goes_on:
        check_resumed_data(order.exp_dir, prepared, embeddings)
    choose_device(machine.device)
    return Data(prepared, embeddings, splits)


def make_loaders(
    settings: TrainSettings, machine: MachineSettings, splits: Mapping[str, Split], processes: Processes
) -> Loaders:
    """This process's share of the training batches and of the test images."""
    workers = worker_count(machine.num_workers, processes.world)

    def open_photos(name: str) -> PhotoDataset:
        cache = open_cache(machine.cache, splits[name].paths, settings.image_size)
        return PhotoDataset(splits[name], make_transform(settings, training=name == "train"), settings.seed, cache)

    train, test = open_photos("train"), open_photos("test")
    batches = TrainingBatches(len(train), settings.batch_size, settings.seed, processes.rank, processes.world)
    # Each process scores every world-th image: together each exactly once.
    shard = list(range(processes.rank, len(test), processes.world))
    local = max(1, settings.batch_size // processes.world // settings.accumulate)
    return Loaders(
        batches,
        make_loader(train, workers, processes.device, batch_sampler=batches),
        make_loader(test, workers, processes.device, sampler=shard, batch_size=local),
        splits["test"],
    )


# --- Model, recipe, loop ---------------------------------------------------------------------------------------------


def make_model(order: Order, data: Data, rank: int = 0) -> PatchModel:
    """The model as training begins, the same in every process. UserError for what cannot be built."""
    settings = order.settings
    torch.manual_seed(settings.seed)
    # A checkpoint, of this run or another one, brings the backbone's weights with it.
    pretrained = False if order.goes_on or settings.pretrained_model else None
    model = build_model(settings, pretrained, label_embeddings=data.embeddings, label_count=len(data.prepared.labels))
    if settings.pretrained_model and not order.goes_on:
        load_pretrained(model, settings.pretrained_model)
    # Every process has drawn the same initial weights; from here on their dropout differs.
    torch.manual_seed(settings.seed + 1000 * rank)
    return model


def make_trainer(
    settings: TrainSettings,
    machine: MachineSettings,
    model: PatchModel,
    splits: Mapping[str, Split],
    folder: Path,
    processes: Processes,
) -> Trainer:
    """The parts of a run put together, at its beginning."""
    loaders = make_loaders(settings, machine, splits, processes)
    model = processes.synchronise_batch_norms(model)
    model = model.to(memory_format=torch.channels_last) if settings.channels_last else model
    model = model.to(processes.device)
    average = MovingAverage(model, settings.ema_decay)
    parallel = processes.parallelise(model)
    optimizer = make_optimizer(model, settings)
    schedule = Schedule(optimizer, settings, loaders.batches.batches_an_epoch)
    half = settings.amp and autocast(processes.device, True).fast_dtype == torch.float16
    state = RunState(model, average, optimizer, schedule, torch.amp.GradScaler(processes.device.type, enabled=half))
    checkpoints, stopping = Checkpoints(folder, processes), Stopping(processes, machine.save_minutes)
    trainer = Trainer(
        settings, processes, loaders, state, make_loss(settings), parallel, parallel, checkpoints, stopping
    )
    if settings.compile:
        size = settings.image_size
        images = min(settings.batch_size, loaders.batches.count) // processes.world // settings.accumulate
        blank = trainer.move(torch.zeros(max(2, images), size, size, 3, dtype=torch.uint8))
        trainer.run, said = compile_model(parallel, blank, autocast(processes.device, settings.amp))
        LOG.info("%s", said)
    return trainer


# --- Around it -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_folder(order: Order, data: Data, model: PatchModel, processes: Processes) -> Iterator[Path]:
    """The experiment folder, the same in every process, described, locked and logged to by process 0."""
    if not processes.is_main:
        yield processes.broadcast()
        return
    folder = claim_experiment_folder(order.exp_dir, order.settings.model, data.prepared.name)
    processes.broadcast(folder)
    with folder_lock(folder, "training"), log_to(folder / "train.log"):
        write_description(folder, order.settings, order.machine, data.prepared, data.embeddings, model, processes)
        if order.resume and not order.goes_on:
            LOG.info("--resume: nothing is saved in %s yet, the run starts", folder)
        yield folder


def train_in_processes(order: Order, data: Data, on_epoch: Callable | None) -> TrainResult:
    """Train in several processes of this machine, and return when they have ended."""
    machine, device = order.machine, choose_device(order.machine.device)
    if device.type == "cuda" and (":" in machine.device or machine.processes > torch.cuda.device_count()):
        raise UserError(
            f"--processes {machine.processes} needs a CUDA device each: there are {torch.cuda.device_count()}, and "
            f"--device {machine.device} must not name one"
        )
    make_model(order, data)  # what cannot be built is refused before a folder is claimed
    folder = claim_experiment_folder(order.exp_dir, order.settings.model, data.prepared.name)
    # Of the machine also what is at its default: the processes of a resumed run would take what is stored instead.
    said = {name: value for name, value in vars(machine).items() if value is not None and value is not False}
    words = ["train", *order.settings.arguments(), *option_words(said), "--exp-dir", str(folder)]
    try:
        with following_history(folder, on_epoch):
            launch([*words, *(["--resume"] if order.resume else [])], machine.processes)
    except ProcessDied as error:
        raise Stopped(f"{error}; --resume --exp-dir {folder} goes on") from None
    return TrainResult(folder, read_history(folder))


@contextlib.contextmanager
def choosing_algorithms(deterministic: bool) -> Iterator[None]:
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
