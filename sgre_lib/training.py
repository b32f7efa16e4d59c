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
from tqdm import tqdm

from .cache import check_cache_room
from .datasets.prepared import PreparedDataset
from .distributed import ProcessDied, choose_device, join_processes, launch, started_by_torchrun
from .errors import Stopped, UserError
from .experiment import LAST, PREVIOUS, check_experiment_folder, claim_experiment_folder
from .files import find_file, folder_lock, write_array, write_text
from .history import check_tensorboard, read_history
from .model import PatchModel, build_model, count_parameters
from .provenance import code_version, package_versions
from .semantics import read_label_embeddings
from .settings import TrainSettings, make_settings, read_config, write_config
from .trainer import Trainer

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
    *,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], object] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a model and return its experiment folder and history.

    options: the fields of `TrainSettings` by name (`data` is needed); or give `settings` whole. With `processes` above 1
    the processes are started from here, in a notebook as in a shell; under `torchrun` this process is one of them, and
    goes on from the last checkpoint by itself when torchrun has restarted it. on_epoch: called with the history after
    every epoch, for a live curve.
    Raises UserError, before anything is written, for what can be known before the run starts; NonFiniteLoss where the
    loss stops being a number; Stopped, after saving, on Ctrl-C or SIGTERM.
    """
    settings = make_settings(**options) if settings is None else settings.replace(**options).check()
    settings = _restarted(settings)
    if settings.resume:
        settings = resumed_settings(settings)
    check_experiment_folder(settings)
    if settings.backbone_weights and not find_file(settings.backbone_weights).is_file():
        raise UserError(f"--backbone-weights {settings.backbone_weights} is not a file")
    if settings.tensorboard:
        check_tensorboard()
    prepared = PreparedDataset(settings.data, settings.data_root)
    embeddings = read_label_embeddings(settings.embed_type, prepared) if settings.model == "mlic" else None
    splits = {name: prepared.split(name) for name in ("train", "test")}
    local_processes = max(settings.processes, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    check_cache_room(settings.cache, [split.paths for split in splits.values()], settings.image_size, local_processes)
    if settings.resume:
        check_resumed_data(Path(settings.exp_dir).expanduser(), prepared, embeddings)
    device = choose_device(settings.device)
    if settings.processes > 1 and not started_by_torchrun():
        if device.type == "cuda" and (":" in settings.device or settings.processes > torch.cuda.device_count()):
            raise UserError(
                f"--processes {settings.processes} needs a CUDA device each: there are {torch.cuda.device_count()}, and "
                f"--device {settings.device} must not name one"
            )
        _build(settings, prepared, embeddings)  # what cannot be built is refused here, before a folder is claimed
        folder = claim_experiment_folder(settings, prepared.name)
        try:
            with _following(folder, on_epoch):
                launch(["train", *settings.replace(exp_dir=str(folder), processes=1).arguments()], settings.processes)
        except ProcessDied as error:
            raise Stopped(f"{error}; --resume --exp-dir {folder} goes on") from None
        return TrainResult(folder, read_history(folder))
    processes = join_processes(settings.device)
    try:
        if settings.batch_size % processes.world:
            raise UserError(f"--batch-size {settings.batch_size} is not a multiple of the {processes.world} processes")
        torch.manual_seed(settings.seed)
        model = _build(settings, prepared, embeddings)
        # Every process has drawn the same initial weights; from here on their dropout differs.
        torch.manual_seed(settings.seed + 1000 * processes.rank)
        folder = processes.broadcast(claim_experiment_folder(settings, prepared.name) if processes.is_main else None)
        with contextlib.ExitStack() as stack:
            if processes.is_main:
                stack.enter_context(folder_lock(folder, "training"))
                stack.enter_context(_log_to(folder / "train.log"))
                _write_description(folder, settings, prepared, embeddings, model, processes)
            stack.enter_context(_chosen_algorithms(settings.deterministic))
            progress = progress and processes.is_main
            trainer = Trainer(settings, model, splits, folder, processes, progress=progress, on_epoch=on_epoch)
            return TrainResult(folder, trainer.fit())
    finally:
        processes.close()


def _restarted(settings: TrainSettings) -> TrainSettings:
    """The settings, with `resume` where torchrun has started this process anew after another one's death."""
    if settings.resume or not started_by_torchrun() or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return settings
    if not settings.exp_dir:
        raise UserError("torchrun --max-restarts needs --exp-dir: a restarted run must find its folder again")
    folder = Path(settings.exp_dir).expanduser()
    return settings.replace(resume=any((folder / name).exists() for name in (LAST, PREVIOUS)))


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


def _build(settings: TrainSettings, prepared: PreparedDataset, embeddings: np.ndarray | None) -> PatchModel:
    # A resumed run's weights come from its checkpoint.
    pretrained = False if settings.resume else None
    return build_model(settings, pretrained, label_embeddings=embeddings, label_count=len(prepared.labels))


def check_resumed_data(folder: Path, prepared: PreparedDataset, embeddings: np.ndarray | None) -> None:
    """UserError where the prepared dataset or its label embeddings changed since the experiment in `folder` began."""
    _, more = read_config(folder / "config.yaml")
    then = (more.get("derived") or {}).get("data_fingerprint")
    if then not in (None, prepared.fingerprint()):
        raise UserError(f"--resume: the lists in {prepared.folder} have changed since {folder} was begun")
    stored = folder / "label_embeddings.npy"
    if embeddings is not None and stored.exists() and not np.array_equal(np.load(stored), embeddings):
        raise UserError(f"--resume: the label embeddings of {prepared.folder} have changed since {folder} was begun")


def _write_description(folder, settings, prepared, embeddings, model, processes) -> None:
    """config.yaml, label.txt and label_embeddings.npy, and the same once for the person watching."""
    counts = count_parameters(model)
    train_images = len(prepared.read_list("train")[0])
    derived = {
        "train_images": train_images,
        "test_images": len(prepared.read_list("test")[0]),
        "labels": len(prepared.labels),
        "steps_an_epoch": -(-train_images // settings.batch_size),
        "grid": list(model.head.grid),
        "parameters": counts,
        "processes": processes.world,
        "batch_a_process": settings.batch_size // processes.world,
        "images_at_a_time": settings.batch_size // processes.world // settings.accumulate,
        "device": str(processes.device),
        "data_fingerprint": prepared.fingerprint(),
        "code_version": code_version(),
        "versions": package_versions(),
    }
    stored = settings.replace(data=str(settings.data), exp_dir=None)
    write_config(folder / "config.yaml", stored, **derived)
    write_text(folder / "label.txt", "".join(f"{label}\n" for label in prepared.labels))
    if embeddings is not None:
        write_array(folder / "label_embeddings.npy", embeddings)
    LOG.info("experiment %s", folder)
    if model.patches.prefix_tokens and model.patches.rm_cls and not settings.rm_cls:
        LOG.info("--pos: the class token of %s is removed, the position map has no place for it", settings.arch)
    LOG.info("settings %s", " ".join(settings.replace(resume=False, exp_dir=None).arguments()))
    LOG.info(
        "%d training and %d test images, %d labels; %d steps an epoch of %d images; %.2f M parameters; grid %dx%d; %s",
        derived["train_images"], derived["test_images"], derived["labels"], derived["steps_an_epoch"],
        settings.batch_size, counts["total"] / 1e6, *model.head.grid, processes.device,
    )  # fmt: skip


@contextlib.contextmanager
def _log_to(path: Path):
    """Send this package's log to a file and, without disturbing progress bars, to the terminal."""

    class Terminal(logging.Handler):
        def emit(self, record):
            tqdm.write(record.getMessage())

    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.handleError = lambda record: None  # a full disk is reported once, by the checkpoint that it stops
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = (to_file, Terminal())
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    for handler in handlers:
        LOG.addHandler(handler)
    try:
        yield
    except BaseException as error:
        LOG.error("ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
