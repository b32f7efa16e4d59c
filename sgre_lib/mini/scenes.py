"""Scenes: their backgrounds, which objects a picture shows, where they stand, and what of them can be seen.

A scene has a theme (sea, street, garden, night village, room, park) that sets the background and makes some objects
likelier than others: the table themes.toml. Everything about picture number k follows from ``(seed, k)`` alone. The
constants set how hard the dataset is; lengths are fractions of the picture's side, so that another image_size shows the
same scenes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .chance import FIXED, Colour, happens, pick_between, pick_count, pick_log_between, pick_one, pick_weighted
from .drawings import Point, follow, read_drawings
from .objects import GRADIENT, LABELS, OBJECTS, draw_clutter, draw_object

THEMES = read_drawings("themes")

OBJECT_SIZE = (16 / 128, 54 / 128)  # drawn log-uniformly: small ones are what an average over all positions drowns
OBJECT_COUNT = {1: 0.18, 2: 0.26, 3: 0.27, 4: 0.18, 5: 0.11}  # more mean smaller shares of the pooled feature
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
HAZE = 0.3  # share of mist or dusk in a background: less, and scenery rivals the objects' colours


@dataclass(frozen=True)
class SceneObject:
    """One labelled object: its label, its visible box (xmin, ymin, xmax, ymax; pixels from 1, inclusive), its flags."""

    label: str
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


def paint_scenery(theme: str, side: int, rng: np.random.Generator) -> Image.Image:
    """The background (RGB, `side` pixels square) of a scene."""
    scene = Image.new("RGB", (side, side))
    pencil = ImageDraw.Draw(scene)
    shapes: dict[str, Callable] = {
        "gradient": functools.partial(_paste_gradient, scene),
        "hills": functools.partial(_trace_hills, rng, side),
        **{name: _round(getattr(pencil, name)) for name in ("rectangle", "ellipse", "arc", "polygon", "line")},
    }
    follow(THEMES[theme]["draw"], rng, side=side, **shapes)
    # A mask blends in whole numbers; Image.blend would use floats, whose last bit differs between processors.
    scene.paste(FIXED[THEMES[theme]["haze"]], (0, 0), Image.new("L", scene.size, round(255 * HAZE)))
    return scene


def _round(draw: Callable) -> Callable:
    """`draw` with the corners of a box, or points, in whole pixels."""
    return lambda *places, **style: draw(np.rint(places).astype(int).ravel().tolist(), **style)


def _paste_gradient(scene: Image.Image, first: Colour, last: Colour, top: int = 0) -> None:
    """From one colour to another over the scene's height, from `top` down."""
    ground = Image.new("RGB", scene.size, first)
    ground.paste(last, (0, 0), GRADIENT.resize(scene.size, Image.Resampling.NEAREST))
    scene.paste(ground, (0, top))


def _trace_hills(rng: np.random.Generator, side: int, height: float, rise: float) -> list[Point]:
    """The polygon under a wavy line at about `height` (0..1 from the top) that moves by at most `rise`."""
    waves = [(pick_between(rng, 0.5, 2.2), pick_between(rng, 0, 6.3)) for _ in range(2)]
    places = [step / 16 for step in range(17)]
    lifts = [sum(math.sin(6.283 * speed * x + phase) for speed, phase in waves) / 2 for x in places]
    ridge = [(x * side, (height + rise * lift) * side) for x, lift in zip(places, lifts, strict=True)]
    return [*ridge, (side, side), (0, side)]


def plan_labels(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A scene's theme and the labels of its objects, back to front; a label may come twice."""
    theme = pick_one(rng, tuple(THEMES))
    source = pick_one(rng, tuple(THEMES)) if happens(rng, SWAP_PROBABILITY) else theme
    weights = THEMES[source]["labels"]
    labels = [pick_weighted(rng, weights) for _ in range(pick_weighted(rng, OBJECT_COUNT))]
    if happens(rng, STRAY_PROBABILITY):
        stray = pick_one(rng, [label for label in LABELS if label not in weights])
        labels[pick_count(rng, 0, len(labels) - 1)] = stray
    return theme, labels


def choose_place(
    rng: np.random.Generator, label: str, size: float, taken: Sequence[tuple[float, float, float]]
) -> Point:
    """A centre (x, y) in fractions of the picture for an object of `size`; `taken` holds (x, y, size)."""
    low, high = OBJECTS[label]["height"] if happens(rng, 0.8) else (0.1, 0.9)
    # The wanted distance is shorter where objects may overlap, so that both can still be named.
    distance = 0.6 if happens(rng, OVERLAP_PROBABILITY) else 1.0
    margin = pick_between(rng, -0.05, 0.25) * size if happens(rng, TRUNCATION_PROBABILITY) else 0.55 * size
    best, least = (0.5, 0.5), math.inf
    for _ in range(14):
        x, y = pick_between(rng, margin, 1 - margin), pick_between(rng, low, high)
        y = min(max(y, margin), 1 - margin)
        apart = [(max(abs(x - a), abs(y - b)), 0.5 * (size + other) * distance) for a, b, other in taken]
        crowding = max([0.0, *(1 - gap / room for gap, room in apart)])
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
    owner = Image.new("L", scene.size)  # which object shows at a pixel: its position from 1, or 0
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
            layer = draw_clutter(side * size, rng, occluding=True)
            shift_x, shift_y = (pick_between(rng, -0.4, 0.4) * size for _ in range(2))
            paste_layer(scene, owner, layer, (x + shift_x) * side, (y + shift_y) * side, 0)
    picture = add_grain(scene.resize((image_size, image_size), Image.Resampling.LANCZOS), rng)
    objects = []
    for number, (label, (area, cut)) in enumerate(zip(labels, drawn, strict=True), start=1):
        if edges := owner.point([255 * (value == number) for value in range(256)]).getbbox():  # it shows
            left, top, right, bottom = edges
            box = tuple(edge // SUPERSAMPLING + 1 for edge in (left, top, right - 1, bottom - 1))
            small = max(box[2] - box[0], box[3] - box[1]) + 1 < DIFFICULT_SIDE * image_size
            hidden = owner.histogram()[number] < DIFFICULT_VISIBLE * area
            objects.append(SceneObject(label, box, cut, hidden or small))
    return picture, objects


def paste_layer(
    scene: Image.Image, owner: Image.Image, layer: Image.Image, x: float, y: float, number: int
) -> tuple[int, bool]:
    """Put `layer` with its centre at (x, y) on `scene`, mark its pixels in `owner`; its area and whether it was cut.

    The layer reaches its own edges, as what `objects.py` draws does.
    """
    left, top = math.floor(x - layer.width / 2 + 0.5), math.floor(y - layer.height / 2 + 0.5)
    alpha = layer.getchannel("A")
    scene.paste(layer, (left, top), alpha)
    owner.paste(number, (left, top), alpha)
    whole = 0 <= left <= scene.width - layer.width and 0 <= top <= scene.height - layer.height
    return alpha.histogram()[255], not whole


def add_grain(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`picture` with soft stains of light and fine grain, in whole numbers so that every machine agrees."""
    width, height = picture.size
    stains = Image.fromarray((rng.random((5, 5)) * 256).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    light = (np.asarray(stains, dtype=np.int16) - 128) // 10
    grain = (rng.random((height, width)) * (2 * GRAIN + 1)).astype(np.int16) - GRAIN
    shifted = np.asarray(picture, dtype=np.int16) + (light + grain)[:, :, None]
    return Image.fromarray(np.clip(shifted, 0, 255).astype(np.uint8))
