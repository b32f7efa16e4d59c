"""The colours of `mini` (palette.toml), and others made from them, as (red, green, blue) of 0 to 255."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..base.files import read_toml
from .chance import happens, pick_count, pick_one

Colour = tuple[int, int, int]

_TABLE = read_toml(Path(__file__).with_name("palette.toml"))

PALETTE: dict[str, Colour] = {name: tuple(colour) for name, colour in _TABLE["palette"].items()}

FIXED: dict[str, Colour] = {name: tuple(colour) for name, colour in _TABLE["fixed"].items()}

GROUPS: dict[str, str] = {"ALL": " ".join(PALETTE), **_TABLE["groups"]}

ODD_COLOUR_PROBABILITY = 0.15
"""Chance that an object (its body) wears a colour that is not its usual one: more makes colour worth less than shape."""


def mix_colour(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` (0..1) of it replaced by `other`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))  # type: ignore[return-value]


def darken(colour: Colour, share: float = 0.25) -> Colour:
    return mix_colour(colour, FIXED["INK"], share)


def lighten(colour: Colour, share: float = 0.35) -> Colour:
    return mix_colour(colour, FIXED["LIGHT"], share)


def pick_colour(rng: np.random.Generator, names: str = GROUPS["VIVID"]) -> Colour:
    """One of the palette's colours `names` (parted by spaces), each channel moved by at most 12."""
    colour = PALETTE[pick_one(rng, names.split())]
    return mix_colour(colour, tuple(pick_count(rng, 0, 255) for _ in range(3)), 0.07)


def pick_body(rng: np.random.Generator, usual: str) -> Colour:
    """A colour for an object's body: one of its `usual` ones, now and then any vivid one."""
    return pick_colour(rng, GROUPS["VIVID"] if happens(rng, ODD_COLOUR_PROBABILITY) else usual)
