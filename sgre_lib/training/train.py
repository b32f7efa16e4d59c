"""A training run from its options to a finished experiment: check at the door, data, model, recipe, loop.

What an epoch sees is a function of (seed, epoch, image); what it computes, of the state in `last.pth`. A run that was
stopped and resumed on a CPU therefore ends with the weights of an undisturbed one, bit for bit.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.config import write_config
from ..base.device import choose_device
from ..base.errors import Stopped, UserError
from ..base.files import write_array, write_text
from ..base.lock import folder_lock
from ..base.places import find_file
from ..base.provenance import code_version, package_versions
from ..base.settings import MachineSettings, TrainSettings, check_share, option_flag, option_words, split_settings
from ..datasets.label_embeddings import read_label_embeddings
from ..datasets.prepared import PreparedDataset, Split
from ..images.cache import check_cache_room, open_cache
from ..images.dataloader import PhotoDataset, make_loader, worker_count
from ..images.sampler import TrainingBatches
from ..images.transforms import make_transform
from ..model.build import PatchModel, build_model, count_parameters
from ..model.compilation import compile_model
from ..model.experiment import check_experiment_folder, claim_experiment_folder
from ..model.precision import autocast
from .ema import MovingAverage
from .history import Events, read_history
from .launch import ProcessDied, launch
from .loop import Loaders, Trainer
from .losses import make_loss
from .processes import Processes, join_processes, started_by_torchrun
from .progress import LOG, log_to
from .recipe import Schedule, make_optimizer
from .resume import check_resumed_data, load_pretrained, resumed_settings, was_restarted
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
    if order.machine.processes > 1 and not started_by_torchrun():
        return train_in_processes(order, on_epoch)
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(contextlib.closing(join_processes(order.machine.device)))
        check_share(order.settings, processes.world)
        model = make_model(order, processes.rank)
        folder = open_folder(order, model, processes, stack)
        choose_algorithms(order.settings.deterministic, stack)
        trainer = make_trainer(order, model, folder, processes)
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
    """What is asked for, checked, and the data that it names.

    exp_dir: None for the next free one. goes_on: from what is saved there. embeddings: (L, T), fixed; None where they
    are trained or not used.
    """

    settings: TrainSettings
    machine: MachineSettings
    exp_dir: Path | None
    resume: bool
    goes_on: bool
    prepared: PreparedDataset
    embeddings: np.ndarray | None
    splits: Mapping[str, Split]


def check_order(
    settings: TrainSettings | None,
    machine: MachineSettings | None,
    exp_dir: str | os.PathLike | None,
    resume: bool,
    options: Mapping[str, Any],
) -> Order:
    """What `train` is asked for, or UserError for what is wrong with it, its data, or the device and memory it needs."""
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
    if machine.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package of that name: pip install tensorboard")
    prepared = PreparedDataset(settings.data, machine.data_root)
    embeddings = read_label_embeddings(settings.embed_type, prepared) if settings.model == "mlic" else None
    splits = {name: prepared.split(name) for name in ("train", "test")}
    local_processes = max(machine.processes, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    check_cache_room(machine.cache, [split.paths for split in splits.values()], settings.image_size, local_processes)
    if goes_on:
        check_resumed_data(folder, prepared, embeddings)
    choose_device(machine.device)
    return Order(settings, machine, folder, resume, goes_on, prepared, embeddings, splits)


# --- Data, model, recipe, loop ---------------------------------------------------------------------------------------


def make_loaders(order: Order, processes: Processes) -> Loaders:
    """This process's share of the training batches and of the test images."""
    settings, machine, rank, world = order.settings, order.machine, processes.rank, processes.world
    workers = worker_count(machine.num_workers, world)

    def open_photos(name: str) -> PhotoDataset:
        cache = open_cache(machine.cache, order.splits[name].paths, settings.image_size)
        transform = make_transform(settings, training=name == "train")
        return PhotoDataset(order.splits[name], transform, settings.seed, cache)

    train, test = open_photos("train"), open_photos("test")
    batches = TrainingBatches(len(train), settings.batch_size, settings.seed, rank, world)
    # Each process scores every world-th image: together each exactly once.
    shard = list(range(rank, len(test), world))
    local = max(1, settings.batch_size // world // settings.accumulate)
    return Loaders(
        batches,
        make_loader(train, workers, processes.device, batch_sampler=batches),
        make_loader(test, workers, processes.device, sampler=shard, batch_size=local),
        order.splits["test"],
    )


def make_model(order: Order, rank: int = 0) -> PatchModel:
    """The model as training begins, the same in every process. UserError for what cannot be built."""
    settings = order.settings
    torch.manual_seed(settings.seed)
    # A checkpoint, of this run or another one, brings the backbone's weights with it.
    pretrained = False if order.goes_on or settings.pretrained_model else None
    labels = len(order.prepared.labels)
    model = build_model(settings, pretrained, label_embeddings=order.embeddings, label_count=labels)
    if settings.pretrained_model and not order.goes_on:
        load_pretrained(model, settings.pretrained_model)
    # Every process has drawn the same initial weights; from here on their dropout differs.
    torch.manual_seed(settings.seed + 1000 * rank)
    return model


def make_trainer(order: Order, model: PatchModel, folder: Path, processes: Processes) -> Trainer:
    """The parts of a run put together, at its beginning."""
    settings, loaders = order.settings, make_loaders(order, processes)
    model = processes.synchronise_batch_norms(model)
    model = model.to(memory_format=torch.channels_last) if settings.channels_last else model
    model = model.to(processes.device)
    average = MovingAverage(model, settings.ema_decay)
    parallel = processes.parallelise(model)
    optimizer = make_optimizer(model, settings)
    schedule = Schedule(optimizer, settings, loaders.batches.batches_an_epoch)
    half = settings.amp and autocast(processes.device, True).fast_dtype == torch.float16
    state = RunState(model, average, optimizer, schedule, torch.amp.GradScaler(processes.device.type, enabled=half))
    checkpoints, stopping = Checkpoints(folder, processes), Stopping(processes, order.machine.save_minutes)
    loss = make_loss(settings)
    trainer = Trainer(settings, processes, loaders, state, loss, parallel, parallel, checkpoints, stopping)
    if settings.compile:
        size = settings.image_size
        images = min(settings.batch_size, loaders.batches.count) // processes.world // settings.accumulate
        blank = trainer.move(torch.zeros(max(2, images), size, size, 3, dtype=torch.uint8))
        trainer.run, said = compile_model(parallel, blank, autocast(processes.device, settings.amp))
        LOG.info("%s", said)
    return trainer


# --- Around it -------------------------------------------------------------------------------------------------------


def open_folder(order: Order, model: PatchModel, processes: Processes, stack: contextlib.ExitStack) -> Path:
    """The experiment folder, the same in every process; described, and until `stack` ends locked and logged to."""
    name = order.prepared.name
    claimed = claim_experiment_folder(order.exp_dir, order.settings.model, name) if processes.is_main else None
    folder = processes.all_gather(claimed)[0]
    if processes.is_main:
        stack.enter_context(folder_lock(folder, "training"))
        stack.enter_context(log_to(folder / "train.log"))
        write_description(order, folder, model, processes)
        if order.resume and not order.goes_on:
            LOG.info("--resume: nothing is saved in %s yet, the run starts", folder)
    return folder


def write_description(order: Order, folder: Path, model: PatchModel, processes: Processes) -> None:
    """config.yaml, label.txt and label_embeddings.npy, and the same once for the person watching."""
    settings, machine, labels = order.settings, order.machine, order.prepared.labels
    counts, share = count_parameters(model), settings.batch_size // processes.world
    images = {name: len(split) for name, split in order.splits.items()}
    steps = -(-images["train"] // settings.batch_size)
    write_config(
        folder / "config.yaml", settings, machine, train_images=images["train"], test_images=images["test"],
        labels=len(labels), steps_an_epoch=steps, grid=list(model.head.grid), parameters=counts,
        processes=processes.world, batch_a_process=share, images_at_a_time=share // settings.accumulate,
        device=str(processes.device), data_fingerprint=order.prepared.fingerprint(), code_version=code_version(),
        versions=package_versions(),
    )  # fmt: skip
    write_text(folder / "label.txt", "".join(f"{label}\n" for label in labels))
    if order.embeddings is not None:
        write_array(folder / "label_embeddings.npy", order.embeddings)
    LOG.info("experiment %s", folder)
    if model.patches.prefix_tokens and model.patches.rm_cls and not settings.rm_cls:
        LOG.info("--pos: the class token of %s is removed, the position map has no place for it", settings.arch)
    LOG.info("settings %s", " ".join([*settings.arguments(), *machine.arguments()]))
    LOG.info(
        "%d training and %d test images, %d labels; %d steps an epoch of %d images; %.2f M parameters; grid %dx%d; %s",
        images["train"], images["test"], len(labels), steps, settings.batch_size, counts["total"] / 1e6,
        *model.head.grid, processes.device,
    )  # fmt: skip


def train_in_processes(order: Order, on_epoch: Callable | None) -> TrainResult:
    """Train in several processes of this machine, and return when they have ended."""
    machine, device = order.machine, choose_device(order.machine.device)
    if device.type == "cuda" and (":" in machine.device or machine.processes > torch.cuda.device_count()):
        raise UserError(
            f"--processes {machine.processes} needs a CUDA device each: there are {torch.cuda.device_count()}, and "
            f"--device {machine.device} must not name one"
        )
    make_model(order)  # what cannot be built is refused before a folder is claimed
    folder = claim_experiment_folder(order.exp_dir, order.settings.model, order.prepared.name)
    # Of the machine also what is at its default: the processes of a resumed run would take what is stored instead.
    said = {name: value for name, value in vars(machine).items() if value is not None and value is not False}
    words = ["train", *order.settings.arguments(), *option_words(said), "--exp-dir", str(folder)]
    result = TrainResult(folder)

    def follow() -> None:
        with contextlib.suppress(UserError):  # no epoch has ended yet
            history = read_history(folder)
            if len(history) > len(result.history):
                result.history = history
                if on_epoch:
                    on_epoch(history)

    try:
        launch([*words, *(["--resume"] if order.resume else [])], machine.processes, follow)
    except ProcessDied as error:
        raise Stopped(f"{error}; --resume --exp-dir {folder} goes on") from None
    return result


def choose_algorithms(deterministic: bool, stack: contextlib.ExitStack) -> None:
    """PyTorch's switches for a run, put back when `stack` ends: reproducible algorithms, or cuDNN's fastest."""
    stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
    stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA is first used
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
