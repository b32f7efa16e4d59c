"""The training loop: an epoch, a step, the end of an epoch. One `Trainer` is one run in one process."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..base.errors import NonFiniteLoss, Stopped
from ..base.settings import TrainSettings
from ..datasets.prepared import Split
from ..evaluation.metrics import average_precision
from ..evaluation.scoring import score_images
from ..images.dataloader import move_pixels, naming_dead_loaders
from ..images.sampler import TrainingBatches
from ..model.experiment import BEST, LAST
from ..model.head import HeadOutput
from ..model.precision import autocast
from .history import HISTORY_COLUMNS, Events, write_history
from .processes import Processes
from .progress import LOG, describe_time_left, epoch_bar, move_bar
from .state import Checkpoints, RunState
from .stopping import GO, PATIENCE, STOP, Stopping, is_exhausted

EVENT_STEPS = 10
"""Optimiser steps between two losses in the TensorBoard events."""


@dataclass
class Loaders:
    """Where a run's images come from. batches: the sampler of `train`. test: this process's share of `test_split`."""

    batches: TrainingBatches
    train: DataLoader
    test: DataLoader
    test_split: Split


@dataclass
class Trainer:
    """One training run in one process. What it has come to is in `state`; everything else stays as it was made.

    parallel: state.model as several processes train it. run: the same, compiled where that was asked for. on_epoch:
    called with the history after every epoch.
    """

    settings: TrainSettings
    processes: Processes
    loaders: Loaders
    state: RunState
    loss: Callable[[HeadOutput, Tensor], Tensor]
    parallel: nn.Module
    run: Callable[[Tensor], HeadOutput]
    checkpoints: Checkpoints
    stopping: Stopping
    events: Events | None = None
    progress: bool = True
    on_epoch: Callable[[list[dict[str, float]]], object] | None = None

    def fit(self) -> list[dict[str, float]]:
        """Train from where the state is to the last epoch, and return the history."""
        with self.stopping.catching_signals():
            while self.state.epoch <= self.settings.epochs:
                if self.settings.estop and is_exhausted(self.state.history):
                    LOG.info("no better EMA mAP for %d epochs: stopped early", PATIENCE)
                    break
                self.train_epoch()
                self.end_epoch()
        if self.state.history:
            best = max(self.state.history, key=lambda row: row["ema_mAP"])
            where = self.checkpoints.folder / BEST
            LOG.info("best EMA mAP %.2f at epoch %d; %s", 100 * best["ema_mAP"], best["epoch"], where)
        return self.state.history

    # --- An epoch ------------------------------------------------------------------------------------------------

    def train_epoch(self) -> None:
        """The batches of the epoch under way that are still to do."""
        state, batches = self.state, self.loaders.batches
        self.parallel.train()
        batches.set_epoch(state.epoch, state.batch)
        started = time.perf_counter() - state.seconds
        done = state.batch * self.settings.batch_size
        bar = epoch_bar(state.epoch, self.settings.epochs, done, batches.count, shown=self.progress)
        pending: Tensor | None = None
        with bar, naming_dead_loaders():
            for pixels, targets, _ in self.loaders.train:
                loss = self.step(pixels, targets.to(self.processes.device, non_blocking=True))
                # The loss of the step before is read while this one runs, so that a GPU is not kept waiting.
                self.account(pending, bar)
                pending = loss
                state.batch += 1
                state.seconds = time.perf_counter() - started
                wish = self.stopping.agree() if state.batch < batches.batches_an_epoch else GO
                if wish != GO:
                    self.account(pending, bar)
                    pending = None
                    self.save()
                if wish == STOP:
                    raise Stopped(
                        f"stopped at epoch {state.epoch}, batch {state.batch} of {batches.batches_an_epoch}; "
                        f"--resume --exp-dir {self.checkpoints.folder} goes on"
                    )
            self.account(pending, bar)
        state.seconds = time.perf_counter() - started

    def step(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """One optimiser step on this process's share of a batch, pixels (B, S, S, 3) and targets (B, L).

        Returns the share's loss times its images.
        """
        state, batches, world = self.state, self.loaders.batches, self.processes.world
        share, size = batches.share(state.batch), batches.global_size(state.batch)
        # Every process must cut its share into as many parts: under DDP each part is a meeting of all.
        parts = max(1, min(self.settings.accumulate, size // world))
        total = torch.zeros((), device=self.processes.device)
        state.optimizer.zero_grad(set_to_none=True)
        for number, (some, truth) in enumerate(
            zip(pixels.tensor_split(parts), targets.tensor_split(parts), strict=True), 1
        ):
            counted = len(some) if share else 0
            # Gradients are exchanged once a step, with the last part.
            with self.parallel.no_sync() if number < parts and world > 1 else contextlib.nullcontext():
                with autocast(self.processes.device, self.settings.amp):
                    output = self.run(self.move(some))
                loss = self.loss(output, truth)
                # Gradients add up over parts and are averaged over processes: weighing each part by its images makes
                # that the mean over the global batch.
                weight = counted * world / size
                state.scaler.scale(loss * weight if weight != 1 else loss).backward()
            total += loss.detach() * counted
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.end_step()
        state.average.update(state.model)
        return total

    def move(self, pixels: Tensor) -> Tensor:
        """A loader's pixels as the model's input."""
        normalise, last = not self.settings.orid_norm, self.settings.channels_last
        return move_pixels(pixels, self.processes.device, normalise, channels_last=last)

    def account(self, loss: Tensor | None, bar: tqdm) -> None:
        """Add a step's loss to the epoch's; stop where it is no number."""
        if loss is None:
            return
        state, batches, value = self.state, self.loaders.batches, loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss is {value} at epoch {state.epoch}, batch {state.batch} of {batches.batches_an_epoch}: a "
                f"lower --lr, or full precision instead of --amp, may help; {LAST} holds the last good state"
            )
        state.loss_sum += value
        if self.events is not None and self.steps_done % EVENT_STEPS == 0:
            self.events.add_loss(self.steps_done, value / max(1, batches.share(state.batch - 1)))
        if not bar.disable:
            # At the pace of this epoch, or of the last, which had its scoring.
            paces = [state.seconds / max(1, state.batch)]
            paces += [row["seconds"] / batches.batches_an_epoch for row in state.history[-1:]]
            left = describe_time_left(self.settings.epochs * batches.batches_an_epoch - self.steps_done, *paces)
            move_bar(bar, (state.batch + 1) * self.settings.batch_size, state.loss_sum * self.processes.world, left)

    # --- The end of an epoch -------------------------------------------------------------------------------------

    def end_epoch(self) -> None:
        """Score model and moving average, keep the better checkpoint, write the history, move on to the next epoch."""
        state, started, training_seconds = self.state, time.perf_counter(), max(self.state.seconds, 1e-9)
        mean_loss = sum(self.processes.all_gather(state.loss_sum)) / self.loaders.batches.count
        model_map, ema_map = self.validate()
        state.seconds += time.perf_counter() - started
        values = (state.epoch, mean_loss, state.optimizer.param_groups[0]["lr"], model_map, ema_map, state.seconds)
        row = dict(zip(HISTORY_COLUMNS, values, strict=True))
        better = all(ema_map > past["ema_mAP"] for past in state.history)
        state.history.append(row)
        if self.processes.is_main:
            if better:
                self.checkpoints.save_best(state.average)
            with self.checkpoints.writing():
                write_history(self.checkpoints.folder, state.history)
            if self.events is not None:
                self.events.add_epoch(self.steps_done, row, self.loaders.batches.count / training_seconds)
        LOG.info(
            "epoch %d/%d  loss %.2f  mAP %.2f  EMA mAP %.2f%s  %.1f s", state.epoch, self.settings.epochs, mean_loss,
            100 * model_map, 100 * ema_map, " *" if better else "", state.seconds,
        )  # fmt: skip
        state.schedule.end_epoch(ema_map)
        state.begin_epoch(state.epoch + 1)
        self.save()
        if self.on_epoch is not None and self.processes.is_main:
            self.on_epoch(state.history)
        if self.stopping.agree() == STOP and state.epoch <= self.settings.epochs:
            folder = self.checkpoints.folder
            raise Stopped(f"stopped after epoch {state.epoch - 1}; --resume --exp-dir {folder} goes on")

    def validate(self) -> tuple[float, float]:
        """mAP of the model and of its moving average on the test images, in one pass over them; the same everywhere."""
        models, split = [self.state.model, self.state.average.model], self.loaders.test_split
        for model in models:  # on a CPU batch norms are not synchronised: every process scores with process 0's
            self.processes.broadcast_state(model)
        scores, indices = score_images(
            models, self.loaders.test, self.processes.device, amp=self.settings.amp, progress=self.progress,
            description=f"scoring {self.state.epoch}/{self.settings.epochs}",
        )  # fmt: skip
        whole = np.zeros((2, *split.targets.shape), np.float32)
        for part, rows in self.processes.all_gather((np.stack(scores), indices)):
            if len(rows):
                whole[:, rows] = part
        if not np.isfinite(whole).all():
            raise NonFiniteLoss(f"scores are not finite after epoch {self.state.epoch}: a lower --lr may help")
        model_map, ema_map = (float(average_precision(one, split.targets, split.ignore).mean()) for one in whole)
        return model_map, ema_map

    # --- Small things --------------------------------------------------------------------------------------------

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the run began."""
        return (self.state.epoch - 1) * self.loaders.batches.batches_an_epoch + self.state.batch

    def save(self) -> None:
        """Write last.pth. Collective."""
        self.checkpoints.save(self.state)
        self.stopping.note_save()
