"""One step of the moving average of SGRE on ResNet-101 with 80 labels, ours against a loop over its tensors.

    python tests/benchmarks/ema.py [--repeats N] [--quick]

Both are run in turn on the same numbers and must agree to rounding. Writes experiments/benchmarks/ema.csv.
"""

from __future__ import annotations

import argparse
import copy

import torch
from literal import update_average
from timing import print_row, time_in_turn, write_rows

from sgre_lib import build_model
from sgre_lib.training.ema import MovingAverage

DECAY = 0.9997


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
    works = {"ours": lambda: average.update(model), "literal": lambda: update_average(literal, model, DECAY)}
    seconds = time_in_turn(works, options.repeats)
    for ours, theirs in zip(average.model.state_dict().values(), literal.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    case = f"{arch}, {sum(t.numel() for t in model.state_dict().values()) / 1e6:.1f} M numbers"
    row = [case, "moving average step", "seconds", *seconds.values(), seconds["literal"] / seconds["ours"]]
    print_row(row)
    if not options.quick:
        write_rows("ema", ["case", "what", "unit", "ours", "literal", "ratio"], [row])


if __name__ == "__main__":
    main()
