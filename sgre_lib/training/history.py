"""What a run writes about itself as it goes: history.csv, a row an epoch, and TensorBoard events where asked for."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base.errors import UserError
from ..base.files import csv_text, write_text

HISTORY_COLUMNS = ("epoch", "train_loss", "lr", "mAP", "ema_mAP", "seconds")


def write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write history.csv whole: an epoch's row is in it once, however often the run was stopped."""
    write_text(
        folder / "history.csv", csv_text(HISTORY_COLUMNS, [[row[c] for c in HISTORY_COLUMNS] for row in history])
    )


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


class Events:
    """TensorBoard events of a run, under <exp_dir>/tensorboard; steps count optimiser steps from the run's beginning.

    What an interrupted run wrote beyond `first_step`, from which it goes on, is marked as superseded.
    """

    def __init__(self, folder: Path, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step, flush_secs=20)

    def add_loss(self, step: int, loss: float) -> None:
        """The mean loss of one batch."""
        self.writer.add_scalar("loss/batch", loss, step)

    def add_epoch(self, step: int, row: Mapping[str, float], images_per_second: float) -> None:
        """A row of the history, and how fast its images went through."""
        for name, tag in (("train_loss", "loss/epoch"), ("lr", "lr"), ("mAP", "mAP/model"), ("ema_mAP", "mAP/EMA")):
            self.writer.add_scalar(tag, row[name], step)
        self.writer.add_scalar("images per second", images_per_second, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
