"""Themes: the places that scenes have, each with its background and its usual objects, from the table themes.toml."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .drawings import FIXED, name_values, read_drawings
from .shapes import SceneCanvas

THEMES = read_drawings("themes.toml")

LABEL_WEIGHTS: dict[str, dict[str, float]] = {name: theme.more["labels"] for name, theme in THEMES.items()}
"""How likely each label is in a theme, relative to the others; no entry means 0."""

HAZE = 0.3
"""Share of a background that is haze (mist by day, dusk by night): less, and scenery rivals the objects' colours."""


def paint_scenery(theme: str, side: int, rng: np.random.Generator) -> Image.Image:
    """The background (RGB, `side` pixels square) of a scene."""
    canvas = SceneCanvas(side)
    THEMES[theme].steps(name_values(rng, side=side, **canvas.shapes(rng)))
    canvas.haze(FIXED[THEMES[theme].more["haze"]], HAZE)
    return canvas.scene
