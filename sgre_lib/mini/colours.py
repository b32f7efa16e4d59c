"""The palette of `mini`, and colours made from it, as (red, green, blue) of 0 to 255."""

from __future__ import annotations

import numpy as np

from .chance import happens, pick_count, pick_one

Colour = tuple[int, int, int]

PALETTE: dict[str, Colour] = {
    "white": (250, 247, 238),
    "cream": (243, 230, 202),
    "mustard": (229, 181, 76),
    "orange": (228, 140, 70),
    "coral": (222, 104, 86),
    "brick": (168, 74, 62),
    "rose": (221, 146, 156),
    "plum": (124, 80, 114),
    "lilac": (166, 148, 198),
    "navy": (54, 70, 108),
    "blue": (82, 130, 184),
    "sky": (150, 194, 220),
    "teal": (66, 140, 140),
    "mint": (152, 200, 170),
    "leaf": (106, 156, 88),
    "moss": (74, 106, 70),
    "brown": (124, 90, 66),
    "stone": (152, 148, 142),
    "charcoal": (62, 62, 72),
}

ALL = " ".join(PALETTE)
VIVID = "mustard orange coral brick rose plum lilac blue sky teal mint leaf"
PALE = "white cream sky mint rose mustard"
DARK = "navy charcoal brick plum moss brown"

INK: Colour = (46, 44, 56)
WHITE: Colour = (255, 255, 255)
MIST: Colour = (244, 242, 236)
DUSK: Colour = (58, 62, 92)

ODD_COLOUR_PROBABILITY = 0.15
"""Chance that an object (its body) wears a colour that is not its usual one: more makes colour worth less than shape."""


def mix_colour(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` (0..1) of it replaced by `other`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))  # type: ignore[return-value]


def darken(colour: Colour, share: float = 0.25) -> Colour:
    return mix_colour(colour, INK, share)


def lighten(colour: Colour, share: float = 0.35) -> Colour:
    return mix_colour(colour, (255, 255, 250), share)


def pick_colour(rng: np.random.Generator, names: str = VIVID) -> Colour:
    """One of the palette's colours `names` (parted by spaces), each channel moved by at most 12."""
    colour = PALETTE[pick_one(rng, names.split())]
    return mix_colour(colour, tuple(pick_count(rng, 0, 255) for _ in range(3)), 0.07)


def pick_body(rng: np.random.Generator, usual: str) -> Colour:
    """A colour for an object's body: one of its `usual` ones, now and then any vivid one."""
    return pick_colour(rng, VIVID if happens(rng, ODD_COLOUR_PROBABILITY) else usual)
