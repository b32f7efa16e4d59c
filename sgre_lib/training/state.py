"""The state of a run: what last.pth holds, and how it is written, read back and taken up."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base.errors import Stopped, UserError
from ..model.checkpoints import read_checkpoint, reason_of, write_checkpoint
from ..model.experiment import BEST, LAST, PREVIOUS
from .ema import MovingAverage
from .processes import Processes
from .progress import LOG
from .recipe import Schedule


@dataclass
class RunState:
    """Everything that the rest of a run depends on, beside its settings and data."""

    model: nn.Module
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    epoch: int = 1  # the epoch under way
    batch: int = 0  # its next batch
    loss_sum: float = 0.0  # of its images so far, in this process
    seconds: float = 0.0  # that it took so far
    history: list[dict[str, float]] = field(default_factory=list)  # a row for each epoch before it

    def begin_epoch(self, epoch: int) -> None:
        """Be at the beginning of an epoch."""
        self.epoch, self.batch, self.loss_sum, self.seconds = epoch, 0, 0.0, 0.0

    def parts(self) -> dict[str, Any]:
        """What has a state dict of its own, by its name in last.pth."""
        return {
            "model": self.model,
            "average": self.average.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule.inner,
            "scaler": self.scaler,
        }

    def collect(self, processes: Processes) -> dict[str, Any]:
        """The state of all processes, as last.pth holds it. Collective."""
        generators = {"cpu": torch.get_rng_state()}
        if processes.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(processes.device)
        return {
            "format": 1,
            **{name: part.state_dict() for name, part in self.parts().items()},
            "generators": processes.all_gather(generators),
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": processes.all_gather(self.loss_sum),
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, content: dict[str, Any], processes: Processes) -> None:
        """Take up what `collect` gave; with another number of processes dropout starts afresh.

        Raises KeyError, RuntimeError, ValueError or TypeError where it belongs to another run.
        """
        for name, part in self.parts().items():
            if name != "scaler" or content[name]:  # empty where the run did not scale its loss before
                part.load_state_dict(content[name])
        if len(content["generators"]) == processes.world:
            generators = content["generators"][processes.rank]
            torch.set_rng_state(generators["cpu"])
            if processes.device.type == "cuda" and "cuda" in generators:
                torch.cuda.set_rng_state(generators["cuda"], processes.device)
            self.loss_sum = content["loss_sum"][processes.rank]
        else:
            self.loss_sum = sum(content["loss_sum"]) / processes.world
        self.epoch, self.batch, self.seconds = content["epoch"], content["batch"], content["seconds"]
        self.history = content["history"]


class Checkpoints:
    """The checkpoints of an experiment folder: last.pth, the one before it, and the best moving average."""

    def __init__(self, folder: Path, processes: Processes):
        self.folder, self.processes = folder, processes

    def save(self, state: RunState) -> None:
        """Write last.pth and keep the one before it. Collective."""
        content = state.collect(self.processes)
        if self.processes.is_main:
            with self.writing():
                write_checkpoint(self.folder / LAST, content, keep=self.folder / PREVIOUS)

    def save_best(self, average: MovingAverage) -> None:
        """Write the moving average as the experiment's best model."""
        with self.writing():
            write_checkpoint(self.folder / BEST, average.model.state_dict())

    def restore(self, state: RunState) -> None:
        """Take up the last state. Raises UserError where it belongs to another model."""
        try:
            state.restore(self.read_last(), self.processes)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{self.folder / LAST} does not fit this run: {reason_of(error)}") from None

    def read_last(self) -> dict[str, Any]:
        """The state to go on from: last.pth or, where that is missing or damaged, the one before it."""
        try:
            return read_checkpoint(self.folder / LAST)
        except UserError as problem:
            with contextlib.suppress(UserError):
                content = read_checkpoint(self.folder / PREVIOUS)
                LOG.info("%s; %s is read instead", problem, PREVIOUS)
                return content
            raise

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full or broken disk into a stop that says what is safe."""
        try:
            (self.folder / LAST).parent.mkdir(exist_ok=True)
            yield
        except OSError as error:
            raise Stopped(
                f"{self.folder} cannot be written ({reason_of(error)}); the last good state is kept: "
                f"make room, and --resume --exp-dir {self.folder} goes on"
            ) from None
