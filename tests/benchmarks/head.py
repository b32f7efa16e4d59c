"""Training steps of the head and of its inter-modal attention, ours against the formulas written literally.

    python tests/benchmarks/head.py [--repeats N] [--quick]

Both are run in turn in one process a case, on the same numbers; what is printed are medians and their ratio. Memory is
the peak of a fresh process that makes one step, less what it held before the step. Writes
experiments/benchmarks/head.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from sgre_lib import AsymmetricLoss, SGREHead
from sgre_lib.attention import InterModalAttention

CASES = {"B8 L80": (8, 80, 196, 2048), "B2 L500": (2, 500, 196, 2048), "B32 L16 small": (32, 16, 36, 96)}
"""B images, L labels, P patches, D features: ResNet-101 at 448 with COCO's and VG500's labels; the mini table's."""

OUT = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "head.csv"


class LiteralAttention(InterModalAttention):
    """The formula as the paper writes it: the (B, L, P, A) tensor goes through the A x A layer."""

    def forward(self, features: Tensor, label_embeddings: Tensor, tau: float = 1.0) -> Tensor:
        patches, labels = self.project_patches(features), self.project_labels(label_embeddings)
        z = torch.tanh(patches[:, None] * labels[None, :, None])
        return torch.softmax(self.target(self.hidden(z)).squeeze(-1) / tau, dim=-1)


def make_heads(case: str) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Our head, the literal one with the same weights, features and targets."""
    images, labels, patches, width = CASES[case]
    torch.manual_seed(0)
    ours = SGREHead(width, torch.randn(labels, 768), (patches // 6, 6) if patches == 36 else (14, 14))
    literal = SGREHead(width, ours.label_embeddings, ours.grid)
    literal.inter_modal = LiteralAttention(width, 768)
    literal.load_state_dict(ours.state_dict())
    targets = (torch.rand(images, labels) < 0.1).float()
    return ours, literal, torch.randn(images, patches, width), targets


def step(head: nn.Module, features: Tensor, targets: Tensor) -> None:
    """Forward, both losses, backward."""
    loss_of = AsymmetricLoss()
    output = head(features.requires_grad_())
    (loss_of(output.logits, targets) + 0.4 * loss_of(output.object_logits, targets)).backward()
    head.zero_grad(set_to_none=True)


def attend(head: nn.Module, features: Tensor, _: Tensor) -> None:
    """Forward and backward of the inter-modal attention alone."""
    head.inter_modal(features.requires_grad_(), head.label_embeddings).square().sum().backward()
    head.zero_grad(set_to_none=True)


def time_pair(case: str, work, repeats: int) -> tuple[float, float]:
    """Median seconds of ours and of the literal formula, run in turn."""
    ours, literal, features, targets = make_heads(case)
    seconds: dict[str, list[float]] = {"ours": [], "literal": []}
    for number in range(repeats + 1):
        for name, head in (("ours", ours), ("literal", literal)):
            started = time.perf_counter()
            work(head, features.detach(), targets)
            if number:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - started)
    return statistics.median(seconds["ours"]), statistics.median(seconds["literal"])


def peak_memory(case: str, which: str) -> float:
    """MB that one head step adds to a fresh process that already holds model, features and targets."""
    command = [sys.executable, __file__, "--memory-of", case, which]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(case: str, which: str) -> None:
    ours, literal, features, targets = make_heads(case)
    head = ours if which == "ours" else literal
    # The weights' gradients are the model's own: they are there before, so that only the step's tensors are counted.
    for parameter in head.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = peak_resident()
    step(head, features, targets)
    print(json.dumps(peak_resident() - before))


def peak_resident() -> float:
    """Peak resident memory of this process so far, MB. getrusage will not do: a child starts with its parent's peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the small case only")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "WHICH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        measure_memory(*options.memory_of)
        return
    rows = []
    for case in ["B32 L16 small"] if options.quick else CASES:
        for name, work in (("head step", step), ("attention", attend)):
            ours, literal = time_pair(case, work, options.repeats)
            rows.append([case, name, "seconds", ours, literal, literal / ours])
        ours, literal = peak_memory(case, "ours"), peak_memory(case, "literal")
        rows.append([case, "head step", "peak MB", ours, literal, literal / max(ours, 1e-9)])
        for row in rows[-3:]:
            print(f"{row[0]:14} {row[1]:10} {row[2]:8} ours {row[3]:9.3f}  literal {row[4]:9.3f}  ratio {row[5]:6.1f}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    if not options.quick:
        with open(OUT, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["case", "what", "unit", "ours", "literal", "ratio"])
            writer.writerows([*row[:3], *(f"{value:.4g}" for value in row[3:])] for row in rows)
        print(f"wrote {OUT.relative_to(Path.cwd()) if OUT.is_relative_to(Path.cwd()) else OUT}")


if __name__ == "__main__":
    main()
