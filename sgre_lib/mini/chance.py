"""What is left to chance in a picture: numbers, choices, and colours from palette.toml, as (red, green, blue) of 0..255.

Only `Generator.random` is used: numpy promises no stable stream for the rest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..base.files import read_toml

Colour = tuple[int, int, int]
Option = TypeVar("Option")

_TABLE = read_toml(Path(__file__).with_name("palette.toml"))
PALETTE, FIXED = ({name: tuple(value) for name, value in _TABLE[kind].items()} for kind in ("palette", "fixed"))
GROUPS: dict[str, str] = {"ALL": " ".join(PALETTE), **_TABLE["groups"]}


def happens(rng: np.random.Generator, probability: float) -> bool:
    return rng.random() < probability


def pick_between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def pick_log_between(rng: np.random.Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


def pick_count(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def pick_one(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(rng.random() * len(options))]


def pick_weighted(rng: np.random.Generator, weights: dict[Option, float]) -> Option:
    """One of the keys, each as likely as its share of the sum of `weights`."""
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[np.searchsorted(bounds[:-1], rng.random() * bounds[-1], side="right")]


def pick_kind(rng: np.random.Generator, kinds: int) -> int:
    """0 for the common kind of an object, or else one of the rarer kinds from 1 to `kinds` - 1: more to learn.

    Rarer are a steamer for a sailing boat, a fir for a broad tree.
    """
    return pick_count(rng, 1, kinds - 1) if happens(rng, 0.25) else 0


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
    """A colour for an object's body: one of its `usual` ones, now and then any vivid one, so that shape is worth more."""
    return pick_colour(rng, GROUPS["VIVID"] if happens(rng, 0.15) else usual)
