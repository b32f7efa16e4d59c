"""The training loop: epochs of batches, scoring, checkpoints. One `Trainer` is one run in one process."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..base.errors import NonFiniteLoss, Stopped, UserError
from ..base.settings import MachineSettings, TrainSettings
from ..datasets.prepared import Split
from ..evaluation.metrics import average_precision
from ..evaluation.scoring import score_images
from ..images.cache import open_cache
from ..images.dataloader import PhotoDataset, make_loader, move_pixels, naming_dead_loaders, worker_count
from ..images.sampler import TrainingBatches
from ..images.transforms import make_transform
from ..model.build import PatchModel
from ..model.checkpoints import read_checkpoint, reason_of, write_checkpoint
from ..model.compilation import compile_model
from ..model.experiment import BEST, LAST, PREVIOUS
from ..model.precision import autocast
from .ema import MovingAverage
from .history import HISTORY_COLUMNS, Events, write_history
from .losses import make_loss
from .processes import Processes
from .recipe import make_optimizer, make_schedule

PATIENCE = 3
"""Epochs without a better EMA mAP after which `--estop` stops."""

GO, SAVE, STOP = 0, 1, 2
"""What the processes agree on after a batch; the highest wish counts."""

EVENT_STEPS = 10
"""Optimiser steps between two losses in the TensorBoard events."""

LOG = logging.getLogger("sgre_lib.training")


class Trainer:
    """One training run in one process. Its whole state is in `state()` and comes back with `restore()`."""

    def __init__(
        self,
        settings: TrainSettings,
        machine: MachineSettings,
        model: PatchModel,
        splits: dict[str, Split],
        folder: Path,
        processes: Processes,
        *,
        resume: bool = False,
        progress: bool = True,
        on_epoch: Callable[[list[dict[str, float]]], object] | None = None,
    ):
        self.settings, self.machine, self.folder, self.processes = settings, machine, folder, processes
        self.resume, self.progress = resume, progress
        self.device, self.on_epoch = processes.device, on_epoch
        if processes.world > 1 and self.device.type == "cuda":
            # timm's converter: torch's own drops the activation that timm's BatchNormAct2d carries.
            model = convert_sync_batchnorm(model)
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model.to(self.device)
        self.average = MovingAverage(self.model, settings.ema_decay)
        self.parallel: nn.Module = self.model
        if processes.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.model, device_ids=ids)
        self.loss = make_loss(settings)
        self.optimizer = make_optimizer(self.model, settings)

        workers = worker_count(machine.num_workers, processes.world)
        kept = {name: open_cache(machine.cache, part.paths, settings.image_size) for name, part in splits.items()}
        dataset = PhotoDataset(splits["train"], make_transform(settings, training=True), settings.seed, kept["train"])
        self.batches = TrainingBatches(
            len(dataset), settings.batch_size, settings.seed, processes.rank, processes.world
        )
        self.loader = make_loader(dataset, workers, self.device, batch_sampler=self.batches)
        self.test = splits["test"]
        # Each process scores every world-th image: together each exactly once.
        shard = range(processes.rank, len(self.test), processes.world)
        tested = PhotoDataset(self.test, make_transform(settings, training=False), cache=kept["test"])
        local = max(1, settings.batch_size // processes.world // settings.accumulate)
        self.test_loader = make_loader(tested, workers, self.device, sampler=list(shard), batch_size=local)

        self.schedule = make_schedule(self.optimizer, settings.lr, settings.epochs * self.batches.batches_an_epoch)
        half = settings.amp and autocast(self.device, True).fast_dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        # Where the run is: the epoch under way (from 1), its next batch, its loss so far, its seconds so far.
        self.epoch, self.batch, self.loss_sum, self.seconds = 1, 0, 0.0, 0.0
        self.history: list[dict[str, float]] = []
        self.stop_asked, self.saved_at = False, time.monotonic()
        self.events: Events | None = None
        self.run: Callable = self.parallel
        if settings.compile:
            size = settings.image_size
            images = min(settings.batch_size, len(dataset)) // processes.world // settings.accumulate
            blank = torch.zeros(max(2, images), size, size, 3, dtype=torch.uint8)
            self.run, said = compile_model(self.parallel, self.move(blank), autocast(self.device, settings.amp))
            self.log("%s", said)

    def move(self, pixels: torch.Tensor) -> torch.Tensor:
        """A loader's pixels as the model's input."""
        settings = self.settings
        return move_pixels(pixels, self.device, not settings.orid_norm, channels_last=settings.channels_last)

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
        """Write last.pth and keep the one before it. Collective."""
        state = self.state()
        if self.processes.is_main:
            with self._writing():
                (self.folder / "checkpoints").mkdir(exist_ok=True)
                write_checkpoint(self.folder / LAST, state, keep=self.folder / PREVIOUS)
        self.saved_at = time.monotonic()

    @contextlib.contextmanager
    def _writing(self):
        """Turn a full or broken disk into a stop that says what is safe."""
        try:
            yield
        except OSError as error:
            raise Stopped(
                f"{self.folder} cannot be written ({reason_of(error)}); the last good state is kept: "
                f"make room, and --resume --exp-dir {self.folder} goes on"
            ) from None

    def read_last(self) -> dict[str, Any]:
        """The state to go on from: last.pth or, where that is missing or damaged, the one before it."""
        try:
            return read_checkpoint(self.folder / LAST)
        except UserError as problem:
            try:
                state = read_checkpoint(self.folder / PREVIOUS)
            except UserError:
                raise problem from None
            self.log("%s; %s is read instead", problem, PREVIOUS)
            return state

    # --- the run -------------------------------------------------------------------------------------------------

    def fit(self) -> list[dict[str, float]]:
        """Train from where the state is to the last epoch, and return the history."""
        if self.resume:
            self.restore(self.read_last())
            self.log("resumed at epoch %d, batch %d", self.epoch, self.batch)
        else:
            self.save()  # killed in its first epoch, the run can still go on
        if self.machine.tensorboard and self.processes.is_main:
            self.events = Events(self.folder, self.steps_done)
        try:
            with self._stop_signals():
                while self.epoch <= self.settings.epochs and not self._exhausted():
                    self.train_epoch()
                    self.end_epoch()
        finally:
            if self.events is not None:
                self.events.close()
        if self.processes.is_main and self.history:
            best = max(self.history, key=lambda row: row["ema_mAP"])
            self.log("best EMA mAP %.2f at epoch %d; %s", 100 * best["ema_mAP"], best["epoch"], self.folder / BEST)
        return self.history

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
        with bar, naming_dead_loaders():
            for pixels, targets, _ in self.loader:
                loss = self.step(pixels, targets.to(self.device, non_blocking=True))
                # The loss of the step before is read while this one runs, so that a GPU is not kept waiting.
                self._account(pending, bar)
                pending = loss
                self.batch += 1
                self.seconds = time.perf_counter() - started
                wish = self.processes.highest(self._wish()) if self.batch < total else GO
                if wish != GO:
                    self._account(pending, bar)
                    pending = None
                    self.save()
                if wish == STOP:
                    raise Stopped(
                        f"stopped at epoch {self.epoch}, batch {self.batch} of {total}; "
                        f"--resume --exp-dir {self.folder} goes on"
                    )
            self._account(pending, bar)
        self.seconds = time.perf_counter() - started

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the run began."""
        return (self.epoch - 1) * self.batches.batches_an_epoch + self.batch

    def _wish(self) -> int:
        if self.stop_asked:
            return STOP
        # Process 0's clock alone decides, so that the processes agree.
        due = self.processes.is_main and time.monotonic() - self.saved_at > 60 * self.machine.save_minutes
        return SAVE if due else GO

    def step(self, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One optimiser step on this process's share of a batch, pixels (B, S, S, 3) and targets (B, L).

        Returns the share's loss times its images.
        """
        share, size, world = self.batches.share(self.batch), self.batches.global_size(self.batch), self.processes.world
        # Every process must cut its share into as many parts: under DDP each part is a meeting of all.
        parts = max(1, min(self.settings.accumulate, size // world))
        total = torch.zeros((), device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        for number, (some, truth) in enumerate(
            zip(pixels.tensor_split(parts), targets.tensor_split(parts), strict=True), 1
        ):
            counted = len(some) if share else 0
            # Gradients are exchanged once a step, with the last part.
            with self.parallel.no_sync() if number < parts and world > 1 else contextlib.nullcontext():
                loss = self.score_loss(self.move(some), truth)
                # Gradients add up over parts and are averaged over processes: weighing each part by its images makes
                # that the mean over the global batch.
                weight = counted * world / size
                self.scaler.scale(loss * weight if weight != 1 else loss).backward()
            total += loss.detach() * counted
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.schedule.last_epoch < self.schedule.total_steps - 1:
            self.schedule.step()
        self.average.update(self.model)
        return total

    def score_loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of both branches on some images."""
        with autocast(self.device, self.settings.amp):
            output = self.run(images)
        loss = self.loss(output.logits, targets)
        if output.object_logits is not None and output.object_logits is not output.logits:
            loss = loss + self.settings.lamda * self.loss(output.object_logits, targets)
        return loss

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
        if self.events is not None and self.steps_done % EVENT_STEPS == 0:
            self.events.add_loss(self.steps_done, value / max(1, self.batches.share(self.batch - 1)))
        if not bar.disable:
            done = min((self.batch + 1) * self.settings.batch_size, self.batches.count)
            said = f"loss {self.loss_sum * self.processes.world / max(1, done):.2f}, run {self._time_left()} left"
            bar.set_postfix_str(said, refresh=False)
            bar.update(done - bar.n)

    def _time_left(self) -> str:
        """How long the epochs that are left will take, in words, at the pace of this epoch and the last."""
        left = (self.settings.epochs - self.epoch) * self.batches.batches_an_epoch
        left += self.batches.batches_an_epoch - self.batch
        pace = self.seconds / max(1, self.batch)
        if self.history:
            pace = max(pace, self.history[-1]["seconds"] / self.batches.batches_an_epoch)
        minutes = round(left * pace / 60)
        return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"

    def end_epoch(self) -> None:
        """Score model and moving average, keep the better checkpoint, write the history, move on to the next epoch."""
        started, training_seconds = time.perf_counter(), max(self.seconds, 1e-9)
        mean_loss = sum(self.processes.gather(self.loss_sum)) / self.batches.count
        model_map, ema_map = self.validate()
        self.seconds += time.perf_counter() - started
        row = dict(zip(HISTORY_COLUMNS, (
            self.epoch, mean_loss, self.optimizer.param_groups[0]["lr"], model_map, ema_map, self.seconds,
        ), strict=True))  # fmt: skip
        better = all(ema_map > past["ema_mAP"] for past in self.history)
        self.history.append(row)
        if self.processes.is_main:
            with self._writing():
                if better:
                    (self.folder / "checkpoints").mkdir(exist_ok=True)
                    write_checkpoint(self.folder / BEST, self.average.model.state_dict())
                write_history(self.folder, self.history)
            if self.events is not None:
                self.events.add_epoch(self.steps_done, row, self.batches.count / training_seconds)
            self.log(
                "epoch %d/%d  loss %.2f  mAP %.2f  EMA mAP %.2f%s  %.1f s",
                self.epoch, self.settings.epochs, mean_loss, 100 * model_map, 100 * ema_map,
                " *" if better else "", self.seconds,
            )  # fmt: skip
        self.epoch, self.batch, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.save()
        if self.on_epoch is not None and self.processes.is_main:
            self.on_epoch(self.history)
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
