"""A few training steps whose gradients and updates are kept: run alone, or by torchrun as one of several processes.

    python updates.py FOLDER DATA BATCHES PARTS...

FOLDER/<processes>x<parts>.pth gets them, for each number of parts that a batch is cut into.

Batch norms are in evaluation mode, dropout is off and numbers are double, so that runs which share a batch in different
ways may differ by rounding only. `test_engine.py` compares such runs.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from unittest import mock

import torch
from conftest import TINY

import sgre_lib.training.train as train
from sgre_lib import PreparedDataset, build_model, make_machine, make_settings
from sgre_lib.base.settings import split_settings
from sgre_lib.training.loop import Trainer
from sgre_lib.training.processes import join_processes


class Probe(Trainer):
    """A trainer in double precision."""

    def move(self, pixels):
        return super().move(pixels).double()


def make_probe(folder: Path, data: str, parts: int, processes) -> Probe:
    of_training, of_machine = split_settings(TINY)
    settings = make_settings(**of_training, data=data, embed_type="random", pos=True, accumulate=parts)
    torch.manual_seed(0)
    model = build_model(settings, label_count=16).double()
    prepared = PreparedDataset(data)
    splits = {name: prepared.split(name) for name in ("train", "test")}
    order = train.Order(settings, make_machine(**of_machine), folder, False, False, prepared, None, splits)
    with mock.patch.object(train, "Trainer", Probe):
        trainer = train.make_trainer(order, model, folder, processes)
    trainer.parallel.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
        if "BatchNorm" in type(module).__name__:
            module.eval()
    return trainer


def main(folder: str, data: str, batches: str, *parts: str) -> None:
    processes = join_processes("cpu")
    for number in parts:
        trainer = make_probe(Path(folder), data, int(number), processes)
        trainer.loaders.batches.set_epoch(1, 0)
        for pixels, targets, _ in itertools.islice(trainer.loaders.train, int(batches)):
            trainer.step(pixels, targets)
            trainer.state.batch += 1
        model = trainer.state.model
        kept = {
            "weights": model.state_dict(),
            "gradients": {name: p.grad for name, p in model.named_parameters()},
            "average": trainer.state.average.model.state_dict(),
        }
        if processes.is_main:
            torch.save(kept, Path(folder) / f"{processes.world}x{number}.pth")
    processes.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
