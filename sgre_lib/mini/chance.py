"""What is left to chance in a picture. Only `Generator.random` is used: numpy promises no stable stream for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

RARE_KIND_PROBABILITY = 0.25
"""Chance that an object is of a rarer kind (a steamer for a sailing boat, a fir for a broad tree): more to learn."""

Option = TypeVar("Option")


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


def pick_weighted(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """An index, each as likely as its share of the sum of `weights`."""
    mark = rng.random() * sum(weights)
    for index, weight in enumerate(weights):
        mark -= weight
        if mark < 0:
            return index
    return len(weights) - 1


def pick_kind(rng: np.random.Generator, kinds: int) -> int:
    """0 for the common kind of an object, or else one of the rarer kinds from 1 to `kinds` - 1."""
    return pick_count(rng, 1, kinds - 1) if happens(rng, RARE_KIND_PROBABILITY) else 0
