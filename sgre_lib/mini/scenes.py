"""Scenes: which objects a picture shows, where they stand, and what of them can be seen.

A scene has a theme (sea, street, garden, night village, room, park) that sets the background and makes some objects
likelier than others. Everything about picture number k follows from ``(seed, k)`` alone. The constants set how hard the
dataset is; lengths are fractions of the picture's side, so that another image_size shows the same scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .chance import happens, pick_between, pick_count, pick_log_between, pick_one, pick_weighted
from .objects import HEIGHTS, LABELS, draw_clutter, draw_object, draw_occluder
from .scenery import LABEL_WEIGHTS, paint_scenery
from .shapes import Point

OBJECT_SIZE = (16 / 128, 54 / 128)  # drawn log-uniformly: small ones are what an average over all positions drowns
OBJECT_COUNT = (0.18, 0.26, 0.27, 0.18, 0.11)  # P(1), P(2), ...: more mean smaller shares of the pooled feature
CLUTTER_COUNT = (6, 11)  # unlabelled shapes in the objects' colours behind them: colour alone then says little
CLUTTER_SIZE = (6 / 128, 30 / 128)  # near the objects' sizes, otherwise scale alone would tell them apart
OVERLAP_PROBABILITY = 0.15  # that an object may be put over an earlier one; without it a free place is looked for
OCCLUSION_PROBABILITY = 0.22  # that something is put in front: parts must do when the outline is broken
TRUNCATION_PROBABILITY = 0.10  # that an object is pushed over the picture's edge, for VOC's `truncated`
FAR_PROBABILITY = 0.03  # that an object is too far away to name, for VOC's `difficult`
FAR_SIZE = (7 / 128, 11 / 128)
STRAY_PROBABILITY = 0.18  # that one object belongs to no such scene: the theme must not decide the labels
SWAP_PROBABILITY = 0.10  # that a picture shows the objects of another theme than its background's
GRAIN = 5  # largest change that the grain makes to a channel (0..255): keeps flat areas from being constant
DIFFICULT_VISIBLE = 0.35  # an object that shows less of itself than this is difficult
DIFFICULT_SIDE = 14 / 128  # and so is one whose longer visible side is shorter than this
SUPERSAMPLING = 2


@dataclass(frozen=True)
class SceneObject:
    """One labelled object: its label, its visible box (xmin, ymin, xmax, ymax; pixels from 1, inclusive), its flags."""

    label: str
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


def plan_labels(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A scene's theme and the labels of its objects, back to front; a label may come twice."""
    names = tuple(LABEL_WEIGHTS)
    theme = pick_one(rng, names)
    source = pick_one(rng, names) if happens(rng, SWAP_PROBABILITY) else theme
    weights = LABEL_WEIGHTS[source]
    count = 1 + pick_weighted(rng, OBJECT_COUNT)
    labels = [tuple(weights)[pick_weighted(rng, tuple(weights.values()))] for _ in range(count)]
    if happens(rng, STRAY_PROBABILITY):
        labels[pick_count(rng, 0, count - 1)] = pick_one(rng, [label for label in LABELS if label not in weights])
    return theme, labels


def choose_place(
    rng: np.random.Generator, label: str, size: float, taken: Sequence[tuple[float, float, float]]
) -> Point:
    """A centre (x, y) in fractions of the picture for an object of `size`; `taken` holds (x, y, size)."""
    low, high = HEIGHTS[label] if happens(rng, 0.8) else (0.1, 0.9)
    # The wanted distance is shorter where objects may overlap, so that both can still be named.
    distance = 0.6 if happens(rng, OVERLAP_PROBABILITY) else 1.0
    margin = pick_between(rng, -0.05, 0.25) * size if happens(rng, TRUNCATION_PROBABILITY) else 0.55 * size
    best, least = (0.5, 0.5), math.inf
    for _ in range(14):
        x, y = pick_between(rng, margin, 1 - margin), pick_between(rng, low, high)
        y = min(max(y, margin), 1 - margin)
        crowding = 0.0
        for other_x, other_y, other_size in taken:
            room = 0.5 * (size + other_size) * distance
            crowding = max(crowding, 1 - max(abs(x - other_x), abs(y - other_y)) / room)
        if crowding < least:
            best, least = (x, y), crowding
        if least <= 0:
            break
    return best


def compose_scene(seed: int, index: int, image_size: int = 128) -> tuple[Image.Image, list[SceneObject]]:
    """Picture number `index` of the dataset `seed` (RGB, `image_size` pixels square) and its objects.

    Deterministic in its three arguments. The list holds only objects of which something can be seen, one at least.
    """
    rng = np.random.default_rng((seed, index))
    while True:
        scene, objects = _try_scene(rng, image_size)
        if objects:
            return scene, objects


def _try_scene(rng: np.random.Generator, image_size: int) -> tuple[Image.Image, list[SceneObject]]:
    side = SUPERSAMPLING * image_size
    theme, labels = plan_labels(rng)
    scene = paint_scenery(theme, side, rng)
    owner = np.zeros((side, side), dtype=np.uint8)  # which object shows at a pixel: its position from 1, or 0
    for _ in range(pick_count(rng, *CLUTTER_COUNT)):
        layer = draw_clutter(side * pick_log_between(rng, *CLUTTER_SIZE), rng)
        paste_layer(scene, owner, layer, pick_between(rng, 0, side), pick_between(rng, 0, side), 0)
    taken: list[tuple[float, float, float]] = []
    drawn = []  # a whole object's area in pixels and whether the picture's edge cuts it
    for number, label in enumerate(labels, start=1):
        size = pick_log_between(rng, *(FAR_SIZE if happens(rng, FAR_PROBABILITY) else OBJECT_SIZE))
        x, y = choose_place(rng, label, size, taken)
        taken.append((x, y, size))
        drawn.append(paste_layer(scene, owner, draw_object(label, side * size, rng), x * side, y * side, number))
    for x, y, size in taken:
        if happens(rng, OCCLUSION_PROBABILITY):
            layer = draw_occluder(side * size, rng)
            shift_x, shift_y = (pick_between(rng, -0.4, 0.4) * size for _ in range(2))
            paste_layer(scene, owner, layer, (x + shift_x) * side, (y + shift_y) * side, 0)
    picture = add_grain(scene.resize((image_size, image_size), Image.Resampling.LANCZOS), rng)
    found = [_look_at(owner == n, labels[n - 1], *drawn[n - 1]) for n in range(1, len(labels) + 1)]
    return picture, [item for item in found if item]


def _look_at(mask: np.ndarray, label: str, area: int, cut: bool) -> SceneObject | None:
    """The object that shows where the supersampled `mask` (S, S) is true; None where nothing of it does."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    box = tuple(int(value) // SUPERSAMPLING + 1 for value in (columns.min(), rows.min(), columns.max(), rows.max()))
    longer = max(box[2] - box[0], box[3] - box[1]) + 1
    small = longer < DIFFICULT_SIDE * (len(mask) // SUPERSAMPLING)
    return SceneObject(label, box, cut, len(rows) < DIFFICULT_VISIBLE * area or small)


def paste_layer(
    scene: Image.Image, owner: np.ndarray, layer: Image.Image, x: float, y: float, number: int
) -> tuple[int, bool]:
    """Put `layer` with its centre at (x, y) on `scene`, mark its pixels in `owner`; its area and whether it was cut."""
    side = scene.width
    left, top = math.floor(x - layer.width / 2 + 0.5), math.floor(y - layer.height / 2 + 0.5)
    alpha = layer.getchannel("A")
    scene.paste(layer, (left, top), alpha)
    mask = np.asarray(alpha) > 0
    inside = mask[max(0, -top) : max(0, side - top), max(0, -left) : max(0, side - left)]
    window = owner[max(0, top) : max(0, top + layer.height), max(0, left) : max(0, left + layer.width)]
    window[inside] = number
    area = int(np.count_nonzero(mask))
    return area, int(np.count_nonzero(inside)) < area


def add_grain(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`picture` with soft stains of light and fine grain, in whole numbers so that every machine agrees."""
    width, height = picture.size
    stains = Image.fromarray((rng.random((5, 5)) * 256).astype(np.uint8))
    stains = stains.resize((width, height), Image.Resampling.BICUBIC)
    light = (np.asarray(stains, dtype=np.int16) - 128) // 10
    grain = (rng.random((height, width)) * (2 * GRAIN + 1)).astype(np.int16) - GRAIN
    shift = (light + grain)[:, :, None]
    return Image.fromarray(np.clip(np.asarray(picture, dtype=np.int16) + shift, 0, 255).astype(np.uint8))
