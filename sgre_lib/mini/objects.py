"""Objects, clutter and what stands in front, as layers: drawn by the tables objects.toml and clutter.toml."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from .chance import happens, pick_between, pick_count, pick_one
from .colours import FIXED, pick_colour
from .drawings import UNIT, Drawing, evaluate, follow, name_values, read_drawings
from .shapes import GRADIENT, ObjectCanvas

OBJECTS, CLUTTER = read_drawings("objects"), read_drawings("clutter")

OCCLUDERS = ("bar", "posts", "foliage")

LABELS: tuple[str, ...] = tuple(sorted(OBJECTS))

HEIGHTS = {label: tuple(drawing.more["height"]) for label, drawing in OBJECTS.items()}
"""Where an object's centre usually lies between the top (0) and the bottom (1) of the picture."""


def draw_object(label: str, size: float, rng: np.random.Generator) -> Image.Image:
    """The RGBA layer of one object of class `label`, cut to what is drawn, with hard edges (alpha 0 or 255).

    `size` is the side of the object's unit square in pixels of the layer. Raises KeyError for an unknown label.
    """
    layer = _draw_layer(OBJECTS[label], size, rng)
    alpha = layer.getchannel("A")
    shaded = pick_between(rng, 0.0, 0.3)
    if shaded > 0.08:  # one side lies in the shade
        slope = GRADIENT.resize(layer.size, Image.Resampling.NEAREST)
        slope = slope.point([round(level * shaded) for level in range(256)]).rotate(90 * pick_count(rng, 0, 3))
        layer = Image.composite(Image.new("RGBA", layer.size, (*FIXED["INK"], 255)), layer, slope)
        layer.putalpha(alpha)
    if happens(rng, 0.85):  # an outline
        ink = pick_colour(rng, "white cream" if happens(rng, 0.2) else "charcoal navy brown")
        ground = Image.new("RGBA", layer.size, (*ink, 0))
        # What a blur reaches at all is the shape made wider: faster than a maximum filter.
        reached = alpha.filter(ImageFilter.BoxBlur(max(1, round(size / 48)))).point([0] + [255] * 255)
        ground.putalpha(reached)
        ground.paste(layer, (0, 0), alpha)
        layer = ground
    return _cut(layer)


def draw_clutter(size: float, rng: np.random.Generator) -> Image.Image:
    """The RGBA layer of one unlabelled shape in the objects' colours."""
    return _cut(_draw_layer(CLUTTER["clutter"], size, rng))


def draw_occluder(size: float, rng: np.random.Generator) -> Image.Image:
    """The RGBA layer of a bar, a row of posts or some foliage that covers part of an object of `size`."""
    return _cut(_draw_layer(CLUTTER[pick_one(rng, OCCLUDERS)], size, rng))


def _draw_layer(drawing: Drawing, size: float, rng: np.random.Generator) -> Image.Image:
    """A drawing in a unit square of `size` pixels (times the `size` that it says), with room around it."""
    names = name_values(rng)
    unit = {name: evaluate(drawing.more[name], names) for name in UNIT if name in drawing.more}
    canvas = ObjectCanvas(size * unit.pop("size", 1), **unit)
    follow(drawing.steps, names | {shape: getattr(canvas, shape) for shape in canvas.SHAPES} | {"scale": size})
    return canvas.layer


def _cut(layer: Image.Image) -> Image.Image:
    box = layer.getchannel("A").getbbox()
    return layer.crop(box) if box else layer
