"""A whole training step of SGRE with ResNet-101 at 448 pixels, against the formulas written literally.

    python tests/benchmarks/step.py [--device cuda [--amp]] [--compile] [--no-channels-last] [--repeats N]

Ours: channels-last, the head of the library, fused AdamW, the moving average in one call. Literal: the same model with
the head of literal.py, a parameter at a time in optimiser and average, in float32. Forward, both losses, backward,
optimiser step and moving average. Writes experiments/benchmarks/step.csv; on a GPU step_cuda.csv.
"""

from __future__ import annotations

import argparse
import copy
import json

import torch
from literal import LiteralHead, update_average
from timing import added_memory, ask_fresh_process, print_row, time_in_turn, use_host_environment, write_rows
from torch import Tensor, nn

from sgre_lib import AsymmetricLoss, build_model
from sgre_lib.base.settings import TrainSettings
from sgre_lib.training.ema import MovingAverage
from sgre_lib.training.recipe import make_optimizer

CASES = {"B8 L20": (8, 20), "B8 L80": (8, 80), "B2 L500": (2, 500)}
"""B images, L labels."""

SETTINGS = TrainSettings(arch="resnet101", image_size=448, pos=True, lamda=0.4)
LOSS = AsymmetricLoss()


class Ours:
    """The library's step."""

    def __init__(self, model: nn.Module, options: argparse.Namespace):
        channels_last = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model, self.amp, self.layout = model.to(memory_format=channels_last), options.amp, channels_last
        self.run = torch.compile(self.model) if options.compile else self.model
        self.optimizer = make_optimizer(model, SETTINGS)
        self.average = MovingAverage(model, SETTINGS.ema_decay)

    def step(self, pixels: Tensor, targets: Tensor) -> None:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.amp):
            output = self.run(pixels.contiguous(memory_format=self.layout))
        loss = LOSS(output.logits, targets) + SETTINGS.lamda * LOSS(output.object_logits, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update(self.model)


class Literal:
    """The same step with nothing folded, fused or reordered."""

    def __init__(self, model: nn.Module):
        model.head = LiteralHead(model.head)
        self.model, self.average = model, copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS.lr, foreach=False, fused=False)

    def step(self, pixels: Tensor, targets: Tensor) -> None:
        output = self.model(pixels)
        loss = LOSS(output.logits, targets) + SETTINGS.lamda * LOSS(output.object_logits, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        update_average(self.average, self.model, SETTINGS.ema_decay)


def make_step(case: str, which: str, options: argparse.Namespace):
    """A function that makes one training step on the case's random photos and targets."""
    images, labels = CASES[case]
    torch.manual_seed(0)
    model = build_model(SETTINGS, False, label_embeddings=torch.randn(labels, 768)).to(options.device)
    trained = Ours(model, options) if which == "ours" else Literal(model)
    pixels = torch.randn(images, 3, 448, 448).to(options.device)
    targets = (torch.rand(images, labels) < 0.1).float().to(options.device)
    return lambda: trained.step(pixels, targets)


def main() -> None:
    use_host_environment()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="ours in bfloat16")
    parser.add_argument("--compile", action="store_true", help="ours compiled")
    parser.add_argument("--no-channels-last", dest="channels_last", action="store_false")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", metavar="CASE", action="append", choices=CASES)
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "WHICH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        work = make_step(*options.memory_of, options)
        work()  # gradients and the optimiser's state are the model's own: they are there before
        print(json.dumps(added_memory(work, options.device)))
        return
    rows = []
    for case in options.only or CASES:
        works = {which: make_step(case, which, options) for which in ("ours", "literal")}
        seconds = time_in_turn(works, options.repeats, options.device)
        del works
        rows.append([case, "training step", "seconds", *seconds.values(), seconds["literal"] / seconds["ours"]])
        print_row(rows[-1])
        if options.device.startswith("cuda"):
            more = ["--device", options.device, *(["--amp"] if options.amp else [])]
            mb = [ask_fresh_process(__file__, "--memory-of", case, which, *more) for which in ("ours", "literal")]
            rows.append([case, "training step", "peak MB", *mb, mb[1] / mb[0]])
            print_row(rows[-1])
    if not options.only:
        name = "step" if options.device == "cpu" else "step_cuda"
        write_rows(name, ["case", "what", "unit", "ours", "literal", "ratio"], rows)


if __name__ == "__main__":
    main()
