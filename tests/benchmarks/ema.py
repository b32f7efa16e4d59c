"""One step of the moving average of SGRE on ResNet-101 with 80 labels, ours against a loop over its tensors.

    python tests/benchmarks/ema.py [--repeats N] [--quick]

Both are run in turn on the same numbers and must agree to rounding. Writes experiments/benchmarks/ema.csv.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from sgre_lib import build_model
from sgre_lib.ema import MovingAverage

DECAY = 0.9997
OUT = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "ema.csv"


@torch.no_grad()
def update_literally(average: nn.Module, model: nn.Module) -> None:
    """e <- d * e + (1 - d) * m, tensor by tensor."""
    for e, m in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        e.copy_(DECAY * e + (1 - DECAY) * m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a small backbone; nothing is written")
    options = parser.parse_args()
    torch.manual_seed(0)
    arch = "test_resnet" if options.quick else "resnet101"
    model = build_model({"arch": arch, "embed_type": "random"}, False, label_count=80)
    average = MovingAverage(model, DECAY)
    literal = copy.deepcopy(average.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    work = {"ours": lambda: average.update(model), "literal": lambda: update_literally(literal, model)}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(options.repeats + 1):
        for name, step in work.items():
            started = time.perf_counter()
            step()
            if number:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - started)
    for ours, theirs in zip(average.model.state_dict().values(), literal.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours, theirs = (statistics.median(seconds[name]) for name in ("ours", "literal"))
    case = f"{arch}, {sum(t.numel() for t in model.state_dict().values()) / 1e6:.1f} M numbers"
    print(f"{case}  seconds  ours {ours:.4f}  literal {theirs:.4f}  ratio {theirs / ours:.1f}")
    if not options.quick:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        with open(OUT, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["case", "what", "unit", "ours", "literal", "ratio"])
            numbers = (f"{value:.4g}" for value in (ours, theirs, theirs / ours))
            writer.writerow([case, "moving average step", "seconds", *numbers])
        print(f"wrote {OUT.relative_to(Path.cwd()) if OUT.is_relative_to(Path.cwd()) else OUT}")


if __name__ == "__main__":
    main()
