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
    theme = tuple(THEMES)[int(rng.integers(len(THEMES)))]
    scenery = paint_scenery(theme, 2 * side, rng)
    left, top = (int(value) for value in rng.integers(side, size=2))
    picture = scenery.crop((left, top, left + side, top + side))
    for _ in range(int(rng.integers(4))):
        clutter = draw_clutter(side * rng.uniform(0.1, 0.4), rng)
        picture.paste(clutter, tuple(int(value) for value in rng.integers(-10, side, size=2)), clutter)
    small, large = OBJECT_SHARE
    layer = draw_object(LABELS[label], side * small * (large / small) ** rng.random(), rng)
    room = [max(1, side - length) for length in layer.size]
    picture.paste(layer, tuple(int(rng.integers(length)) for length in room), layer)
    if rng.random() < 0.5:  # clutter in front too: a part must do
        clutter = draw_clutter(side * rng.uniform(0.1, 0.3), rng)
        picture.paste(clutter, tuple(int(value) for value in rng.integers(-10, side, size=2)), clutter)
    return np.asarray(add_grain(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), rng)), label


def draw_pictures(first: int, count: int, *, processes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, S, S), normalised like photos, and label indices (N)."""
    with get_context("fork").Pool(processes) as pool:
        drawn = pool.imap(draw_named_object, range(first, first + count), chunksize=64)
        pictures, labels = zip(*tqdm(drawn, total=count, desc="drawing", unit="picture"), strict=True)
    pixels = (np.stack(pictures) / 255 - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def train_backbone() -> tuple[nn.Module, float]:
    """The trained backbone and its accuracy on pictures it has not seen."""
    pixels, labels = draw_pictures(0, PICTURES)
    tested, truth = draw_pictures(PICTURES, TESTED)
    torch.manual_seed(SEED)
    backbone = timm.create_model(ARCH, pretrained=False, num_classes=0, output_stride=OUTPUT_STRIDE)
    classifier = nn.Linear(backbone.num_features, len(LABELS))
    model = nn.ModuleList([backbone, classifier])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05, fused=True)
    steps = PICTURES // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=EPOCHS * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    def score(images: torch.Tensor) -> torch.Tensor:
        return classifier(backbone.forward_features(images).mean((2, 3)))

    for epoch in range(1, EPOCHS + 1):
        model.train()
        order = torch.randperm(PICTURES)
        for step in tqdm(range(steps), desc=f"epoch {epoch}/{EPOCHS}", unit="step", leave=False):
            batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            images = pixels[batch]
            mirrored = torch.rand(len(batch)) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            loss = loss_of(score(images), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            found = torch.cat([score(part).argmax(1) for part in tested.split(500)])
        accuracy = float((found == truth).float().mean())
        print(f"epoch {epoch}: names {100 * accuracy:.1f} % of {TESTED} unseen pictures")
    return backbone, accuracy


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("test_resnet.pth")
    backbone, accuracy = train_backbone()
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in backbone.state_dict().items()
    }
    torch.save(state, out)
    print(f"wrote {out}: accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
