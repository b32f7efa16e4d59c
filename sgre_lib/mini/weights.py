"""Makes `test_resnet.pth`: the backbone weights that come with `mini`, as ImageNet's come with photos.

Trained from random weights on 1,000 scenes, a network learns to see and to classify at once, and neither well. The
paper starts from a backbone that has seen a million photos; `mini` starts from one that has named single drawn objects.
None of the pictures here is one of `mini`'s: each shows one object on a piece of scenery, from a seed of its own.

    python -m sgre_lib.mini.weights [OUT]

takes about six minutes on two CPU cores. Another machine's result differs in the last digits, so the file is kept.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from tqdm import tqdm, trange

from .chance import pick_log_between
from .objects import LABELS, draw_clutter, draw_object
from .scenes import THEMES, add_grain, paint_scenery

SIDE = 64  # pixels of a picture: what an object and its surroundings take up in a scene of 96 to 128
OBJECT_SHARE = (0.22, 0.95)  # side of the object, as a fraction of the picture's: the sizes that objects have in scenes
SEED, BATCH_SIZE, LR = 20260, 64, 4e-3


def draw_named_object(index: int) -> tuple[np.ndarray, int]:
    """Picture number `index`, (SIDE, SIDE, 3) uint8, and the index of the one label it shows. Deterministic."""
    rng = np.random.default_rng((SEED, index))
    side, label = 2 * SIDE, int(rng.integers(len(LABELS)))
    scenery = paint_scenery(tuple(THEMES)[rng.integers(len(THEMES))], 2 * side, rng)
    left, top = (int(value) for value in rng.integers(side, size=2))
    picture = scenery.crop((left, top, left + side, top + side))

    def paste_clutter(largest: float) -> None:
        clutter = draw_clutter(side * rng.uniform(0.1, largest), rng)
        picture.paste(clutter, tuple(rng.integers(-10, side, size=2).tolist()), clutter)

    for _ in range(rng.integers(4)):
        paste_clutter(0.4)
    layer = draw_object(LABELS[label], side * pick_log_between(rng, *OBJECT_SHARE), rng)
    picture.paste(layer, tuple(int(rng.integers(max(1, side - length))) for length in layer.size), layer)
    if rng.random() < 0.5:  # clutter in front too: a part must do
        paste_clutter(0.3)
    return np.asarray(add_grain(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), rng)), label


def train_backbone(pictures: int = 24_000, tested: int = 2000, epochs: int = 10) -> tuple[nn.Module, float]:
    """The backbone after `epochs` of so many pictures, and its accuracy on `tested` ones that it has not seen."""
    drawn = [draw_named_object(index) for index in trange(pictures + tested, desc="drawing", unit="picture")]
    pixels = (np.stack([picture for picture, _ in drawn]) / 255 - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    images = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([label for _, label in drawn])
    torch.manual_seed(SEED)
    backbone = timm.create_model("test_resnet", pretrained=False, num_classes=0, output_stride=16)
    model = nn.Sequential(backbone, nn.Linear(backbone.num_features, len(LABELS)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05, fused=True)
    steps = pictures // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * steps)
    for epoch in range(1, epochs + 1):
        model.train()
        order = torch.randperm(pictures).split(BATCH_SIZE)[:steps]
        for batch in tqdm(order, desc=f"epoch {epoch}/{epochs}", unit="step", leave=False):
            mirrored = torch.rand(len(batch), 1, 1, 1) < 0.5
            seen = torch.where(mirrored, images[batch].flip(3), images[batch])
            loss = nn.functional.cross_entropy(model(seen), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            found = torch.cat([model(part).argmax(1) for part in images[pictures:].split(500)])
        accuracy = float((found == labels[pictures:]).float().mean())
        print(f"epoch {epoch}: names {100 * accuracy:.1f} % of {tested} unseen pictures")
    return backbone, accuracy


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("test_resnet.pth")
    state = train_backbone()[0].state_dict()
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in state.items()}, out)
    print(f"wrote {out}")
