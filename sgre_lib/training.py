"""Training: the released recipe, on one or several processes, that can be stopped and resumed at any batch.

What an epoch sees is a function of (seed, epoch, image); what it computes, of the state in `last.pth`. A run that was
stopped and resumed on a CPU therefore ends with the weights of an undisturbed one, bit for bit.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from .checkpoints import read_checkpoint, write_checkpoint
from .datasets.prepared import PreparedDataset, Split
from .distributed import Processes, choose_device, join_processes, launch, started_by_torchrun
from .ema import MovingAverage
from .errors import NonFiniteLoss, Stopped, UserError
from .evaluation import autocast, score_images
from .experiment import BEST, LAST, check_experiment_folder, claim_experiment_folder
from .files import find_file, folder_lock, write_array, write_text
from .losses import make_loss
from .metrics import average_precision
from .model import PatchModel, build_model, count_parameters
from .photos import PhotoDataset, TrainingBatches, make_loader, worker_count
from .provenance import code_version, package_versions
from .semantics import read_label_embeddings
from .settings import TrainSettings, make_settings, read_config, write_config
from .transforms import make_transform

PATIENCE = 3
"""Epochs without a better EMA mAP after which `--estop` stops."""

HISTORY_COLUMNS = ("epoch", "train_loss", "lr", "mAP", "ema_mAP", "seconds")
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


def train(settings: TrainSettings | None = None, *, progress: bool = True, **options: Any) -> TrainResult:
    """Train a model and return its experiment folder and history.

    options: the fields of `TrainSettings` by name (`data` is needed); or give `settings` whole. With `processes` above 1
    the processes are started from here, in a notebook as in a shell; under `torchrun` this process is one of them.
    Raises UserError, before anything is written, for what can be known before the run starts; NonFiniteLoss where the
    loss stops being a number; Stopped, after saving, on Ctrl-C or SIGTERM.
    """
    settings = make_settings(**options) if settings is None else settings.replace(**options).check()
    if settings.resume:
        settings = resumed_settings(settings)
    check_experiment_folder(settings)
    if settings.backbone_weights and not find_file(settings.backbone_weights).is_file():
        raise UserError(f"--backbone-weights {settings.backbone_weights} is not a file")
    prepared = PreparedDataset(settings.data, settings.data_root)
    embeddings = read_label_embeddings(settings.embed_type, prepared) if settings.model == "mlic" else None
    splits = {name: prepared.split(name) for name in ("train", "test")}
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
        launch(["train", *settings.replace(exp_dir=str(folder), processes=1).arguments()], settings.processes)
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
            trainer = Trainer(settings, model, splits, folder, processes, progress=progress and processes.is_main)
            return trainer.fit()
    finally:
        processes.close()


def resumed_settings(asked: TrainSettings) -> TrainSettings:
    """The settings of the experiment to go on with; where the caller asks for another result, UserError.

    Only what cannot change the result may differ: device, processes, num_workers, data_root.
    """
    check_experiment_folder(asked)
    stored, _ = read_config(Path(asked.exp_dir).expanduser() / "config.yaml")
    free = {"device", "processes", "num_workers", "data_root", "exp_dir", "resume"}
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


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over every parameter; with `true_weight_decay` biases and other 1-D parameters are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": parameters, "weight_decay": settings.weight_decay}]
    if settings.true_weight_decay:
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, lr: float, steps: int) -> OneCycleLR:
    """The one-cycle schedule over `steps` steps: cosine up over the first fifth, cosine down to lr / 25e4.

    PyTorch's default also cycles beta1 0.95 -> 0.85 -> 0.95, and that is part of the recipe. With fewer than 10 steps a
    fifth is less than the two steps that a rise needs (PyTorch then divides by zero), and the rise takes two.
    """
    total = max(2, steps)
    return OneCycleLR(optimizer, max_lr=lr, total_steps=total, pct_start=max(0.2, min(1.0, 2 / total)))


class Trainer:
    """One training run in one process. Its whole state is in `state()` and comes back with `restore()`."""

    def __init__(
        self,
        settings: TrainSettings,
        model: PatchModel,
        splits: dict[str, Split],
        folder: Path,
        processes: Processes,
        *,
        progress: bool = True,
    ):
        self.settings, self.folder, self.processes, self.progress = settings, folder, processes, progress
        self.device = processes.device
        if processes.world > 1 and self.device.type == "cuda":
            # timm's converter: torch's own drops the activation that timm's BatchNormAct2d carries.
            model = convert_sync_batchnorm(model)
        self.model = model.to(self.device)
        self.average = MovingAverage(self.model, settings.ema_decay)
        self.parallel: nn.Module = self.model
        if processes.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.model, device_ids=ids)
        self.loss = make_loss(settings)
        self.optimizer = make_optimizer(self.model, settings)

        workers = worker_count(settings.num_workers, processes.world)
        dataset = PhotoDataset(splits["train"], make_transform(settings, training=True), settings.seed)
        self.batches = TrainingBatches(
            len(dataset), settings.batch_size, settings.seed, processes.rank, processes.world
        )
        self.loader = make_loader(dataset, workers, self.device, batch_sampler=self.batches)
        self.test = splits["test"]
        # Each process scores every world-th image: together each exactly once.
        shard = range(processes.rank, len(self.test), processes.world)
        tested = PhotoDataset(self.test, make_transform(settings, training=False))
        local = max(1, settings.batch_size // processes.world)
        self.test_loader = make_loader(tested, workers, self.device, sampler=list(shard), batch_size=local)

        self.schedule = make_schedule(self.optimizer, settings.lr, settings.epochs * self.batches.batches_an_epoch)
        half = settings.amp and autocast(self.device, True).fast_dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        # Where the run is: the epoch under way (from 1), its next batch, its loss so far, its seconds so far.
        self.epoch, self.batch, self.loss_sum, self.seconds = 1, 0, 0.0, 0.0
        self.history: list[dict[str, float]] = []
        self.stop_asked = False

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on. Collective: every process must call it."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "format": 1,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generators": self.processes.gather(generators),
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.processes.gather(self.loss_sum),
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that `state()` gave. Raises UserError where it belongs to another model."""
        try:
            self.model.load_state_dict(state["model"])
            self.average.model.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if state["scaler"]:  # empty where the run did not scale its loss before
                self.scaler.load_state_dict(state["scaler"])
            rank = self.processes.rank
            if len(state["generators"]) == self.processes.world:  # else: other processes than before, fresh dropout
                torch.set_rng_state(state["generators"][rank]["cpu"])
                if self.device.type == "cuda" and "cuda" in state["generators"][rank]:
                    torch.cuda.set_rng_state(state["generators"][rank]["cuda"], self.device)
                self.loss_sum = state["loss_sum"][rank]
            else:
                self.loss_sum = sum(state["loss_sum"]) / self.processes.world
            self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
            self.history = state["history"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"{self.folder / LAST} does not fit this run: {first}") from None

    def save(self) -> None:
        """Write last.pth. Collective."""
        state = self.state()
        if self.processes.is_main:
            (self.folder / "checkpoints").mkdir(exist_ok=True)
            write_checkpoint(self.folder / LAST, state)

    # --- the run -------------------------------------------------------------------------------------------------

    def fit(self) -> TrainResult:
        """Train from where the state is to the last epoch."""
        if self.settings.resume:
            self.restore(read_checkpoint(self.folder / LAST))
            self.log("resumed at epoch %d, batch %d", self.epoch, self.batch)
        else:
            self.save()  # killed in its first epoch, the run can still go on
        with self._stop_signals():
            while self.epoch <= self.settings.epochs and not self._exhausted():
                self.train_epoch()
                self.end_epoch()
        if self.processes.is_main and self.history:
            best = TrainResult(self.folder, self.history).best
            self.log("best EMA mAP %.2f at epoch %d; %s", 100 * best["ema_mAP"], best["epoch"], self.folder / BEST)
        return TrainResult(self.folder, self.history)

    def train_epoch(self) -> None:
        """The batches of the epoch under way that are still to do."""
        self.parallel.train()
        self.batches.set_epoch(self.epoch, self.batch)
        started = time.perf_counter() - self.seconds
        total = self.batches.batches_an_epoch
        bar = tqdm(
            total=self.batches.count, initial=min(self.batch * self.settings.batch_size, self.batches.count),
            desc=f"epoch {self.epoch}/{self.settings.epochs}", unit="image", leave=False, disable=not self.progress,
        )  # fmt: skip
        pending: torch.Tensor | None = None
        with bar:
            for pixels, targets, _ in self.loader:
                loss = self.step(pixels.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True))
                # The loss of the step before is read while this one runs, so that a GPU is not kept waiting.
                self._account(pending, bar)
                pending = loss
                self.batch += 1
                self.seconds = time.perf_counter() - started
                if self.batch < total and self.processes.any(self.stop_asked):
                    self._account(pending, bar)
                    pending = None
                    self.save()
                    raise Stopped(
                        f"stopped at epoch {self.epoch}, batch {self.batch} of {total}; "
                        f"--resume --exp-dir {self.folder} goes on"
                    )
            self._account(pending, bar)
        self.seconds = time.perf_counter() - started

    def step(self, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One optimiser step on this process's share of a batch. Returns its loss times its share of the images."""
        share, size = self.batches.share(self.batch), self.batches.global_size(self.batch)
        with autocast(self.device, self.settings.amp):
            output = self.parallel(pixels)
        loss = self.loss(output.logits, targets)
        if output.object_logits is not None and output.object_logits is not output.logits:
            loss = loss + self.settings.lamda * self.loss(output.object_logits, targets)
        # Gradients are averaged over processes: weighing by the share makes that the mean over the global batch.
        weight = share * self.processes.world / size
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss * weight if weight != 1 else loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.schedule.last_epoch < self.schedule.total_steps - 1:
            self.schedule.step()
        self.average.update(self.model)
        return loss.detach() * share

    def _account(self, loss: torch.Tensor | None, bar: tqdm) -> None:
        """Add a step's loss to the epoch's; stop where it is no number."""
        if loss is None:
            return
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss is {value} at epoch {self.epoch}, batch {self.batch} of {self.batches.batches_an_epoch}: a "
                f"lower --lr, or full precision instead of --amp, may help; {LAST} holds the last good state"
            )
        self.loss_sum += value
        if not bar.disable:
            done = min((self.batch + 1) * self.settings.batch_size, self.batches.count)
            bar.set_postfix_str(f"loss {self.loss_sum * self.processes.world / max(1, done):.2f}", refresh=False)
            bar.update(done - bar.n)

    def end_epoch(self) -> None:
        """Score model and moving average, keep the better checkpoint, write the history, move on to the next epoch."""
        started = time.perf_counter()
        mean_loss = sum(self.processes.gather(self.loss_sum)) / self.batches.count
        model_map, ema_map = self.validate()
        self.seconds += time.perf_counter() - started
        row = dict(zip(HISTORY_COLUMNS, (
            self.epoch, mean_loss, self.optimizer.param_groups[0]["lr"], model_map, ema_map, self.seconds,
        ), strict=True))  # fmt: skip
        better = all(ema_map > past["ema_mAP"] for past in self.history)
        self.history.append(row)
        if self.processes.is_main:
            if better:
                (self.folder / "checkpoints").mkdir(exist_ok=True)
                write_checkpoint(self.folder / BEST, self.average.model.state_dict())
            write_history(self.folder, self.history)
            self.log(
                "epoch %d/%d  loss %.2f  mAP %.2f  EMA mAP %.2f%s  %.1f s",
                self.epoch, self.settings.epochs, mean_loss, 100 * model_map, 100 * ema_map,
                " *" if better else "", self.seconds,
            )  # fmt: skip
        self.epoch, self.batch, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.save()
        if self.processes.any(self.stop_asked) and self.epoch <= self.settings.epochs:
            raise Stopped(f"stopped after epoch {self.epoch - 1}; --resume --exp-dir {self.folder} goes on")

    def validate(self) -> tuple[float, float]:
        """mAP of the model and of its moving average on the test images, in one pass over them; the same everywhere."""
        # On a CPU batch norms are not synchronised: every process scores with process 0's.
        self.processes.broadcast_state(self.model)
        self.processes.broadcast_state(self.average.model)
        models = [self.model, self.average.model]
        scores, indices = score_images(
            models, self.test_loader, self.device, amp=self.settings.amp, progress=self.progress,
            description=f"scoring {self.epoch}/{self.settings.epochs}",
        )  # fmt: skip
        whole = np.zeros((2, *self.test.targets.shape), np.float32)
        for part, rows in self.processes.gather((np.stack(scores), indices)):
            if len(rows):
                whole[:, rows] = part
        if not np.isfinite(whole).all():
            raise NonFiniteLoss(f"scores are not finite after epoch {self.epoch}: a lower --lr may help")
        return tuple(float(average_precision(s, self.test.targets, self.test.ignore).mean()) for s in whole)

    def _exhausted(self) -> bool:
        """Whether `--estop` ends the run: as many epochs as PATIENCE without a better EMA mAP."""
        if not self.settings.estop or len(self.history) <= PATIENCE:
            return False
        values = [row["ema_mAP"] for row in self.history]
        stop = len(values) - 1 - int(np.argmax(values)) >= PATIENCE
        if stop:
            self.log("no better EMA mAP for %d epochs: stopped early", PATIENCE)
        return stop

    def log(self, message: str, *values: Any) -> None:
        if self.processes.is_main:
            LOG.info(message, *values)

    @contextlib.contextmanager
    def _stop_signals(self):
        """Turn Ctrl-C and SIGTERM into a request to save and stop; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number, frame):
            if self.stop_asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_asked = True

        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Write history.csv whole: an epoch's row is in it once, however often the run was stopped."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(folder / "history.csv", text.getvalue())


def read_history(exp_dir: str | os.PathLike) -> list[dict[str, float]]:
    """The rows of an experiment's history.csv: epoch (int), train_loss, lr, mAP and ema_mAP (0..1), seconds."""
    path = Path(exp_dir).expanduser() / "history.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: no epoch has ended yet") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} is not a history that sgre train wrote") from None
