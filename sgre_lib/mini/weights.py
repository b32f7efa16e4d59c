"""Makes `test_resnet.pth`: the backbone weights that come with `mini`, as ImageNet's come with photos.

Trained from random weights on 1,000 scenes, a network learns to see and to classify at once, and neither well. The
paper starts from a backbone that has seen a million photos; `mini` starts from one that has named single drawn objects.
None of the pictures here is one of `mini`'s: each shows one object on a piece of scenery, from a seed of its own.

    python -m sgre_lib.mini.weights [OUT]

takes about five minutes on two CPU cores. Another machine's result differs in the last digits, so the file is kept.
"""

from __future__ import annotations

import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from tqdm import tqdm

from .objects import LABELS, draw_clutter, draw_object
from .scenery import THEMES, paint_scenery
from .scenes import add_grain

ARCH, OUTPUT_STRIDE = "test_resnet", 16

SIDE = 64
"""Pixels of a picture: what an object and its surroundings take up in a scene of 96 to 128."""

SEED, PICTURES, TESTED = 20260, 24000, 2000

EPOCHS, BATCH_SIZE, LR = 10, 64, 4e-3

OBJECT_SHARE = (0.22, 0.95)
"""Side of the object, as a fraction of the picture's: the sizes that objects have in scenes."""


def draw_named_object(index: int) -> tuple[np.ndarray, int]:
    """Picture number `index`, (SIDE, SIDE, 3) uint8, and the index of the one label it shows. Deterministic."""
    rng = np.random.default_rng((SEED, index))
    side, label = 2 * SIDE, int(rng.integers(len(LABELS)))
    scenery = paint_scenery(tuple(THEMES)[int(rng.integers(len(THEMES)))], 2 * side, rng)
    left, top = (int(value) for value in rng.integers(side, size=2))
    picture = scenery.crop((left, top, left + side, top + side))
    for _ in range(int(rng.integers(4))):
        _paste_clutter(picture, 0.4, rng)
    small, large = OBJECT_SHARE
    layer = draw_object(LABELS[label], side * small * (large / small) ** rng.random(), rng)
    picture.paste(layer, tuple(int(rng.integers(max(1, side - length))) for length in layer.size), layer)
    if rng.random() < 0.5:  # clutter in front too: a part must do
        _paste_clutter(picture, 0.3, rng)
    return np.asarray(add_grain(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), rng)), label


def _paste_clutter(picture: Image.Image, largest: float, rng: np.random.Generator) -> None:
    clutter = draw_clutter(picture.width * rng.uniform(0.1, largest), rng)
    picture.paste(clutter, tuple(int(value) for value in rng.integers(-10, picture.width, size=2)), clutter)


def draw_pictures(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, S, S), normalised like photos, and label indices (N)."""
    with get_context("fork").Pool(2) as pool:
        drawn = pool.imap(draw_named_object, range(first, first + count), chunksize=64)
        pictures, labels = zip(*tqdm(drawn, total=count, desc="drawing", unit="picture"), strict=True)
    pixels = (np.stack(pictures) / 255 - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def train_backbone(pictures: int = PICTURES, tested: int = TESTED, epochs: int = EPOCHS) -> tuple[nn.Module, float]:
    """The backbone after `epochs` of so many pictures, and its accuracy on `tested` ones that it has not seen."""
    pixels, labels = draw_pictures(0, pictures)
    unseen, truth = draw_pictures(pictures, tested)
    torch.manual_seed(SEED)
    backbone = timm.create_model(ARCH, pretrained=False, num_classes=0, output_stride=OUTPUT_STRIDE)
    classifier = nn.Linear(backbone.num_features, len(LABELS))
    parameters = [*backbone.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.05, fused=True)
    steps = pictures // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    def score(images: torch.Tensor) -> torch.Tensor:
        return classifier(backbone.forward_features(images).mean((2, 3)))

    for epoch in range(1, epochs + 1):
        backbone.train()
        order = torch.randperm(pictures)
        for batch in tqdm(order.split(BATCH_SIZE)[:steps], desc=f"epoch {epoch}/{epochs}", unit="step", leave=False):
            mirrored = torch.rand(len(batch)) < 0.5
            images = torch.where(mirrored[:, None, None, None], pixels[batch].flip(3), pixels[batch])
            loss = loss_of(score(images), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        backbone.eval()
        with torch.inference_mode():
            found = torch.cat([score(part).argmax(1) for part in unseen.split(500)])
        accuracy = float((found == truth).float().mean())
        print(f"epoch {epoch}: names {100 * accuracy:.1f} % of {tested} unseen pictures")
    return backbone, accuracy


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("test_resnet.pth")
    backbone, accuracy = train_backbone()
    state = backbone.state_dict().items()
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in state}, out)
    print(f"wrote {out}: accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
