"""A training step of the head, and of its inter-modal attention alone, against the formulas written literally.

    python tests/benchmarks/head.py [--device cuda [--amp] [--compile]] [--repeats N] [--growth] [--quick]

Both compute the same numbers of the same weights and run in turn in one process a case. On a GPU `--amp` and
`--compile` are ours only: the literal head stays in float32 and eager. Memory is the peak of a fresh process that makes
one step, less what it held before the step (weights and their gradients). `--growth` doubles B, L and P in turn instead.
Writes experiments/benchmarks/head.csv, or growth.csv; on a GPU head_cuda.csv.
"""

from __future__ import annotations

import argparse
import copy
import json

import torch
from literal import LiteralHead, align
from timing import added_memory, ask_fresh_process, print_row, time_in_turn, use_host_environment, write_rows
from torch import Tensor, nn

from sgre_lib import AsymmetricLoss, SGREHead

CASES = {
    "B8 L20": (8, 20, 196, 2048),
    "B8 L80": (8, 80, 196, 2048),
    "B8 L81": (8, 81, 196, 2048),
    "B2 L500": (2, 500, 196, 2048),
    "B32 L16 small": (32, 16, 36, 96),
}
"""B images, L labels, P patches, D features: ResNet-101 at 448 with the labels of VOC, COCO, NUS-WIDE and VG500; mini."""

GROWTH = {
    f"B{b} L{labels} P{p}": (b, labels, p, 2048)
    for b, labels, p in ((2, 80, 196), (4, 80, 196), (8, 80, 196), (2, 160, 196), (2, 320, 196), (2, 80, 400), (2, 80, 784))
}  # fmt: skip
LOSS = AsymmetricLoss()


def make_case(case: str, device: str) -> tuple[SGREHead, LiteralHead, Tensor, Tensor]:
    """Our head, the literal one with the same weights, features (B, P, D) and targets (B, L)."""
    images, labels, patches, width = {**CASES, **GROWTH}[case]
    torch.manual_seed(0)
    side = round(patches**0.5)
    ours = SGREHead(width, torch.randn(labels, 768), (side, side)).to(device)
    literal = LiteralHead(copy.deepcopy(ours)).to(device)
    targets = (torch.rand(images, labels) < 0.1).float().to(device)
    return ours, literal, torch.randn(images, patches, width).to(device), targets


def step(head: nn.Module, features: Tensor, targets: Tensor, amp: bool = False) -> None:
    """Forward, both losses, backward."""
    with torch.autocast(features.device.type, torch.bfloat16, enabled=amp):
        output = head(features.detach().requires_grad_())
    (LOSS(output.logits, targets) + 0.4 * LOSS(output.object_logits, targets)).backward()
    head.zero_grad(set_to_none=True)


def measure_memory(case: str, which: str, device: str, amp: bool) -> float:
    """MB that one step adds."""
    ours, literal, features, targets = make_case(case, device)
    head = ours if which == "ours" else literal
    # The weights' gradients are the model's own: they are there before, so that only the step's tensors are counted.
    for parameter in head.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return added_memory(lambda: step(head, features, targets, amp and which == "ours"), device)


def measure_case(case: str, options: argparse.Namespace) -> list[list]:
    """The rows of one case."""
    ours, literal, features, targets = make_case(case, options.device)
    run = torch.compile(ours) if options.compile else ours
    embeddings, folded, written = ours.label_embeddings, ours.inter_modal, literal.head.inter_modal
    x = features.clone().requires_grad_()
    pairs = {
        "head step": (lambda: step(run, features, targets, options.amp), lambda: step(literal, features, targets)),
        "attention": (
            lambda: folded(x, embeddings).square().sum().backward(),
            lambda: align(written, x, embeddings, 1.0).square().sum().backward(),
        ),
    }
    rows = []
    for what, (work, literal_work) in pairs.items():
        seconds = time_in_turn({"ours": work, "literal": literal_work}, options.repeats, options.device)
        rows.append([case, what, "seconds", seconds["ours"], seconds["literal"], seconds["literal"] / seconds["ours"]])
    more = ["--device", options.device, *(["--amp"] if options.amp else [])]
    mb = {which: ask_fresh_process(__file__, "--memory-of", case, which, *more) for which in ("ours", "literal")}
    rows.append([case, "head step", "peak MB", mb["ours"], mb["literal"], mb["literal"] / max(mb["ours"], 1e-9)])
    for row in rows:
        print_row(row)
    return rows


def main() -> None:
    use_host_environment()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="ours in bfloat16")
    parser.add_argument("--compile", action="store_true", help="ours compiled")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--growth", action="store_true", help="how time and memory grow with B, L and P")
    parser.add_argument("--quick", action="store_true", help="the small case only; writes nothing")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "WHICH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(measure_memory(*options.memory_of, options.device, options.amp)))
        return
    cases = ["B32 L16 small"] if options.quick else GROWTH if options.growth else CASES
    rows = [row for case in cases for row in measure_case(case, options)]
    name = ("growth" if options.growth else "head") + ("" if options.device == "cpu" else "_cuda")
    if not options.quick:
        write_rows(name, ["case", "what", "unit", "ours", "literal", "ratio"], rows)


if __name__ == "__main__":
    main()
