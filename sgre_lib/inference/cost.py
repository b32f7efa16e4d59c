"""What a model costs: parameters, operations, images a second and memory, for random images, without a dataset."""

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..base.device import choose_device, describe_device
from ..base.errors import UserError
from ..base.settings import TrainSettings
from ..model.attention import ATTENTION_SIZE
from ..model.build import PatchModel, build_model, count_parameters
from ..model.precision import autocast
from ..training.ema import MovingAverage
from ..training.losses import make_loss
from ..training.recipe import make_optimizer


def measure_cost(
    settings: TrainSettings, *, label_count: int = 80, embedding_size: int = 768, steps: int = 5, device: str = "auto"
) -> dict[str, Any]:
    """What the model that `settings` describe costs, with random weights and images.

    label_count: L; embedding_size: width of a label's text vector. steps: timed steps, after one that is not timed, of
    settings.batch_size images each; the median counts. 0 leaves out time and memory. A training step is forward, loss,
    backward, AdamW and the moving average, without image loading; images are on the device beforehand.

    Returns parameters, backbone_parameters, head_parameters; gflops of one image's forward pass, a multiply-add being
    two, and gflops_literal with the attention's A x A layer over all labels and patches as the formula is written,
    which we fold; inference_ and training_images_per_second; inference_ and training_memory, bytes: on a GPU the peak
    that its allocator gave out, on a CPU the peak of this process's resident memory above what it was at the start;
    device in words. A process measures memory on a CPU once only: peaks do not fall.
    """
    if steps < 0 or label_count < 1 or embedding_size < 1:
        raise UserError(f"steps {steps}, label_count {label_count}, embedding_size {embedding_size} cannot be measured")
    chosen = choose_device(device)
    baseline = _peak_memory(chosen)
    torch.manual_seed(settings.seed)
    model = build_model(settings, False, label_embeddings=torch.randn(label_count, embedding_size)).to(chosen)
    counts = count_parameters(model)
    flops = count_flops(model, settings.image_size, chosen)
    # The product with one vector that ends our folded attention is no operation to PyTorch's counter.
    has_attention = settings.model == "mlic" and settings.branches != "patch"
    folded = 2 * label_count * math.prod(model.head.grid) * ATTENTION_SIZE if has_attention else 0
    result = {
        "parameters": counts["total"],
        "backbone_parameters": counts["backbone"],
        "head_parameters": counts["head"],
        "gflops": (flops + folded) / 1e9,
        "gflops_literal": (flops + folded + folded * ATTENTION_SIZE) / 1e9,
        "device": describe_device(chosen),
        "label_count": label_count,
        "batch_size": settings.batch_size,
        "image_size": settings.image_size,
        "steps": steps,
    }
    if steps:
        images = torch.randn(settings.batch_size, 3, settings.image_size, settings.image_size, device=chosen)
        targets = (torch.rand(settings.batch_size, label_count, device=chosen) < 0.05).float()
        for name, step in _make_steps(model, settings, images, targets):
            times = []
            for _ in range(steps + 1):
                begun = _read_clock(chosen)
                step()
                times.append(_read_clock(chosen) - begun)
            result[f"{name}_images_per_second"] = settings.batch_size / statistics.median(times[1:])
            result[f"{name}_memory"] = _peak_memory(chosen) - baseline
    return result


def count_flops(model: PatchModel, image_size: int, device: torch.device) -> int:
    """Operations of matrix products, convolutions and attention in one image's forward pass, a multiply-add being two."""
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    training = model.training
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(training)
    return counter.get_total_flops()


def _make_steps(
    model: PatchModel, settings: TrainSettings, images: torch.Tensor, targets: torch.Tensor
) -> Iterator[tuple[str, Callable[[], None]]]:
    """A step of inference and then one of training, with what it needs made when it is asked for."""

    def infer() -> None:
        with torch.inference_mode(), autocast(images.device, settings.amp):
            model(images)

    model.eval()
    yield "inference", infer
    loss_of, average = make_loss(settings), MovingAverage(model, settings.ema_decay)
    optimizer = make_optimizer(model, settings)

    def train() -> None:
        with autocast(images.device, settings.amp):
            output = model(images)
        optimizer.zero_grad(set_to_none=True)
        loss_of(output, targets).backward()
        optimizer.step()
        average.update(model)

    model.train()
    yield "training", train


def _read_clock(device: torch.device) -> float:
    """Seconds, when the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_memory(device: torch.device) -> int:
    """Bytes at the peak so far: of the CUDA allocator, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        # getrusage will not do: there a process begins with the peak of the one that started it.
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
