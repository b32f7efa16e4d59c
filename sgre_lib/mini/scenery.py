"""Themes: the places that scenes have, each with its background and its usual objects, from the table themes.toml."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from .chance import pick_between
from .colours import FIXED, Colour
from .drawings import follow, name_values, read_drawings
from .shapes import GRADIENT, Point

THEMES = read_drawings("themes")

LABEL_WEIGHTS: dict[str, dict[str, float]] = {name: theme.more["labels"] for name, theme in THEMES.items()}
"""How likely each label is in a theme, relative to the others; no entry means 0."""

HAZE = 0.3
"""Share of a background that is haze (mist by day, dusk by night): less, and scenery rivals the objects' colours."""


def paint_scenery(theme: str, side: int, rng: np.random.Generator) -> Image.Image:
    """The background (RGB, `side` pixels square) of a scene."""
    scene = Image.new("RGB", (side, side))
    pencil = ImageDraw.Draw(scene)
    shapes: dict[str, Callable] = {
        "gradient": functools.partial(_paste_gradient, scene),
        "hills": functools.partial(_trace_hills, rng, side),
        **{name: _round_box(getattr(pencil, name)) for name in ("rectangle", "ellipse", "arc")},
        **{name: _round_points(getattr(pencil, name)) for name in ("polygon", "line")},
    }
    follow(THEMES[theme].steps, name_values(rng, side=side, **shapes))
    # A mask blends in whole numbers; Image.blend would use floats, whose last bit differs between processors.
    scene.paste(FIXED[THEMES[theme].more["haze"]], (0, 0), Image.new("L", scene.size, round(255 * HAZE)))
    return scene


def _round_box(draw: Callable) -> Callable:
    return lambda *box, **style: draw([round(value) for value in box], **style)


def _round_points(draw: Callable) -> Callable:
    return lambda *points, **style: draw([(round(x), round(y)) for x, y in points], **style)


def _paste_gradient(scene: Image.Image, first: Colour, last: Colour, top: int = 0) -> None:
    """From one colour to another over the scene's height, from `top` down."""
    upper, lower = (Image.new("RGB", scene.size, colour) for colour in (first, last))
    mask = GRADIENT.resize(scene.size, Image.Resampling.NEAREST)
    scene.paste(Image.composite(lower, upper, mask), (0, top))


def _trace_hills(rng: np.random.Generator, side: int, height: float, rise: float) -> list[Point]:
    """The polygon under a wavy line at about `height` (0..1 from the top) that moves by at most `rise`."""
    waves = [(pick_between(rng, 0.5, 2.2), pick_between(rng, 0, 6.3)) for _ in range(2)]
    points = []
    for step in range(17):
        x = step / 16
        lift = sum(math.sin(6.283 * speed * x + phase) for speed, phase in waves) / 2
        points.append((x * side, (height + rise * lift) * side))
    return [*points, (side, side), (0, side)]
