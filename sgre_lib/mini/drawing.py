"""The embedded dataset: drawn scenes with named objects, written in Pascal VOC's layout.

A scene has a theme (sea, street, garden, night village, room, park) that sets the background and makes some objects
likelier than others. Everything about picture number k follows from ``(seed, k)`` alone.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from ..base.errors import UserError

# ---- Difficulty. Lengths are fractions of the picture's side: another image_size shows the same scenes. ----
# Smallest and largest object (drawn log-uniformly): small ones are what an average over all positions drowns.
OBJECT_SIZE = (16 / 128, 54 / 128)

# P(1), P(2), ... objects in a picture: more objects mean smaller shares of the pooled feature and more occlusion.
OBJECT_COUNT = (0.18, 0.26, 0.27, 0.18, 0.11)

# Fewest and most unlabelled shapes behind the objects: they carry the objects' colours, so colour alone says little.
CLUTTER_COUNT = (6, 11)

# Smallest and largest piece of clutter: kept near the objects' sizes, otherwise scale alone would tell them apart.
CLUTTER_SIZE = (6 / 128, 30 / 128)

# Chance that an object may be put over an earlier one; without it a free place is looked for.
OVERLAP_PROBABILITY = 0.15

# Chance that a bar, a post or some foliage is put in front of an object: parts must do when the outline is broken.
OCCLUSION_PROBABILITY = 0.22

# Chance that an object is pushed over the picture's edge, for VOC's `truncated`.
TRUNCATION_PROBABILITY = 0.10

# Chance that an object is too far away to name, for VOC's `difficult`.
FAR_PROBABILITY = 0.03

# Chance that one object of a picture belongs to no such scene: the theme must not decide the labels.
STRAY_PROBABILITY = 0.18

# Chance that a picture shows the objects of another theme: a background without the objects that usually go with it.
SWAP_PROBABILITY = 0.10

# Chance that an object (its body) wears a colour that is not its usual one: more makes colour worth less than shape.
ODD_COLOUR_PROBABILITY = 0.15

# Chance that an object is of a rarer kind (a steamer for a sailing boat, a fir for a broad tree): more kinds to learn.
RARE_KIND_PROBABILITY = 0.25

# Share of a background that is haze (mist by day, dusk by night): less haze, and scenery rivals the objects' colours.
HAZE = 0.3

# Largest change that the picture's grain makes to a channel (0..255): keeps flat areas from being constant.
GRAIN = 5

FAR_SIZE = (7 / 128, 11 / 128)

DIFFICULT_VISIBLE = 0.35  # an object that shows less of itself than this is difficult

DIFFICULT_SIDE = 14 / 128  # and so is one whose longer visible side is shorter than this

SUPERSAMPLING = 2

JPEG_QUALITY = 90

SMALLEST_IMAGE = 32

Colour = tuple[int, int, int]

Point = tuple[float, float]

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

VIVID = ("mustard", "orange", "coral", "brick", "rose", "plum", "lilac", "blue", "sky", "teal", "mint", "leaf")

PALE = ("white", "cream", "sky", "mint", "rose", "mustard")

DARK = ("navy", "charcoal", "brick", "plum", "moss", "brown")

INK: Colour = (46, 44, 56)


# ---- Chance. Only `Generator.random` is used: numpy promises no stable stream for the other methods. ----
def pick_between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def pick_log_between(rng: np.random.Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


def pick_count(rng: np.random.Generator, low: int, high: int) -> int:
    """Return an integer from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def pick_one(rng: np.random.Generator, options: Sequence):
    return options[int(rng.random() * len(options))]


def pick_weighted(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """Return an index, each as likely as its share of the sum of `weights`."""
    mark = rng.random() * sum(weights)
    for index, weight in enumerate(weights):
        mark -= weight
        if mark < 0:
            return index
    return len(weights) - 1


def pick_colour(rng: np.random.Generator, names: Sequence[str] = VIVID) -> Colour:
    """Return one of the palette's colours `names`, each channel moved by at most 12."""
    red, green, blue = PALETTE[pick_one(rng, names)]
    return mix_colour((red, green, blue), tuple(pick_count(rng, 0, 255) for _ in range(3)), 0.07)


def pick_body(rng: np.random.Generator, usual: Sequence[str]) -> Colour:
    """Return a colour for an object's body: one of its `usual` ones, now and then any vivid one."""
    return pick_colour(rng, VIVID if rng.random() < ODD_COLOUR_PROBABILITY else usual)


def pick_kind(rng: np.random.Generator, kinds: int) -> int:
    """Return 0 for the common kind of an object, or else one of the rarer kinds from 1 to `kinds` - 1."""
    return pick_count(rng, 1, kinds - 1) if rng.random() < RARE_KIND_PROBABILITY else 0


def mix_colour(colour: Colour, other: Colour, share: float) -> Colour:
    """Return `colour` with `share` (0..1) of it replaced by `other`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))  # type: ignore[return-value]


def darken(colour: Colour, share: float = 0.25) -> Colour:
    return mix_colour(colour, INK, share)


def lighten(colour: Colour, share: float = 0.35) -> Colour:
    return mix_colour(colour, (255, 255, 250), share)


# ---- Drawing ----
def trace_arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0) -> list[Point]:
    """Return points on an ellipse from angle `start` to `stop` (degrees, clockwise), the ellipse turned by `turn`."""
    steps = max(3, round(abs(stop - start) / 12))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    points = []
    for step in range(steps + 1):
        angle = math.radians(start + (stop - start) * step / steps)
        u, v = rx * math.cos(angle), ry * math.sin(angle)
        points.append((x + u * cos - v * sin, y + u * sin + v * cos))
    return points


def trace_star(x: float, y: float, outer: float, inner: float, tips: int, start: float = -90.0) -> list[Point]:
    points = []
    for step in range(2 * tips):
        angle = math.radians(start + 180 * step / tips)
        radius = inner if step % 2 else outer
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return points


class Pen:
    """Draws in a unit square (x to the right, y down) on a transparent square layer around it.

    The unit square is `size` layer pixels wide, mirrored where `flip`, stretched by `aspect` (width over height, area
    kept), turned clockwise by `turn` degrees and put in the layer's centre.
    """

    def __init__(self, size: float, *, turn: float = 0.0, flip: bool = False, aspect: float = 1.0):
        side = math.ceil(size * 1.5 * max(aspect, 1 / aspect) ** 0.5) + 8
        self.layer = Image.new("RGBA", (side, side))
        self.scale = size
        self.canvas = ImageDraw.Draw(self.layer)
        across = size * aspect**0.5 * (-1 if flip else 1)
        along = size / aspect**0.5
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        self._map = (across * cos, -along * sin, across * sin, along * cos, side / 2)

    def place(self, point: Point) -> tuple[int, int]:
        # Whole pixels: the last bit of a sine differs between machines, and rounding keeps it out of the picture.
        a, b, c, d, middle = self._map
        u, v = point[0] - 0.5, point[1] - 0.5
        return (math.floor(a * u + b * v + middle + 0.5), math.floor(c * u + d * v + middle + 0.5))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self.canvas.polygon([self.place(point) for point in points], fill=colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0) -> None:
        self.polygon(trace_arc(x, y, rx, ry, 0, 360, turn), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.ellipse(x, y, radius, radius, colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line through `points`, `width` of the unit square thick (2 pixels at least), with round joints."""
        thick = max(2, round(width * self.scale))
        placed = [self.place(point) for point in points]
        self.canvas.line(placed, fill=colour, width=thick)
        if thick > 3:
            half = thick // 2
            for x, y in placed:
                self.canvas.ellipse((x - half, y - half, x + half, y + half), fill=colour)


def draw_face(pen: Pen, x: float, y: float, reach: float, colour: Colour) -> None:
    """Draw two eyes and a smile around (x, y); a face says nothing about the label, several objects may wear one."""
    for side in (-1, 1):
        pen.disc(x + side * 0.4 * reach, y - 0.15 * reach, 0.13 * reach, colour)
    pen.stroke(trace_arc(x, y + 0.05 * reach, 0.45 * reach, 0.4 * reach, 25, 155), 0.12 * reach, colour)


def draw_ball(pen: Pen, rng: np.random.Generator) -> None:
    kind = pick_kind(rng, 4)
    first, second = pick_body(rng, ("coral", "blue")), pick_colour(rng, ("white", "cream"))
    pen.disc(0.5, 0.5, 0.47, first)
    if kind == 0:  # a beach ball
        for start in (0, 120, 240):
            pen.polygon([(0.5, 0.5), *trace_arc(0.5, 0.5, 0.47, 0.47, start, start + 60)], second)
        pen.disc(0.5, 0.5, 0.09, lighten(second))
    elif kind == 1:  # a football
        white, dark = pick_colour(rng, ("white", "cream")), pick_colour(rng, DARK)
        pen.disc(0.5, 0.5, 0.47, white)
        for tip in range(5):
            angle = math.radians(-90 + 72 * tip)
            cos, sin = math.cos(angle), math.sin(angle)
            pen.stroke([(0.5 + 0.17 * cos, 0.5 + 0.17 * sin), (0.5 + 0.36 * cos, 0.5 + 0.36 * sin)], 0.04, dark)
            edge = trace_arc(0.5, 0.5, 0.47, 0.47, -90 + 72 * tip - 19, -90 + 72 * tip + 19)
            pen.polygon([*edge, (0.5 + 0.31 * cos, 0.5 + 0.31 * sin)], dark)
        pen.polygon(trace_star(0.5, 0.5, 0.19, 0.155, 5), dark)
    elif kind == 2:  # a rubber ball with a band
        pen.polygon(trace_arc(0.5, 0.5, 0.47, 0.47, -24, 24) + trace_arc(0.5, 0.5, 0.47, 0.47, 156, 204), second)
        pen.polygon(trace_star(0.5, 0.5, 0.16, 0.07, 5), first)
    else:  # a basketball
        line = darken(first, 0.7)
        pen.stroke([(0.03, 0.5), (0.97, 0.5)], 0.05, line)
        pen.stroke([(0.5, 0.03), (0.5, 0.97)], 0.05, line)
        pen.stroke(trace_arc(0.02, 0.5, 0.3, 0.42, -62, 62), 0.05, line)
        pen.stroke(trace_arc(0.98, 0.5, 0.3, 0.42, 118, 242), 0.05, line)


def draw_bird(pen: Pen, rng: np.random.Generator) -> None:
    body = pick_body(rng, ("blue", "teal"))
    wing = pick_one(rng, (darken(body, 0.3), lighten(body, 0.4)))
    beak = pick_colour(rng, ("mustard", "orange"))
    if pick_kind(rng, 2) == 0:  # sitting
        pen.stroke([(0.44, 0.75), (0.42, 0.97)], 0.04, darken(beak, 0.3))
        pen.stroke([(0.55, 0.75), (0.55, 0.97)], 0.04, darken(beak, 0.3))
        pen.polygon([(0.3, 0.5), (0.02, 0.7), (0.1, 0.82), (0.42, 0.75)], darken(body, 0.15))
        pen.ellipse(0.48, 0.58, 0.3, 0.22, body, -22)
        pen.polygon([(0.86, 0.22), (1.0, 0.32), (0.84, 0.38)], beak)
        pen.disc(0.7, 0.3, 0.19, body)
        pen.ellipse(0.58, 0.66, 0.13, 0.1, lighten(body, 0.5), -22)
        pen.ellipse(0.4, 0.56, 0.2, 0.11, wing, 24)
        pen.disc(0.75, 0.26, 0.05, (255, 255, 255))
        pen.disc(0.76, 0.26, 0.03, INK)
    else:  # flying
        lift = pick_between(rng, 0.0, 0.1)
        pen.polygon([(0.44, 0.5), (0.3, 0.05 + lift), (0.52, 0.12 + lift), (0.68, 0.5)], darken(wing, 0.2))
        pen.polygon([(0.26, 0.52), (0.0, 0.42), (0.06, 0.56), (0.0, 0.7), (0.3, 0.64)], darken(body, 0.15))
        pen.ellipse(0.5, 0.56, 0.3, 0.15, body, -8)
        pen.polygon([(0.88, 0.42), (1.0, 0.5), (0.87, 0.55)], beak)
        pen.disc(0.78, 0.48, 0.13, body)
        pen.polygon([(0.36, 0.54), (0.2, 0.96 - lift), (0.44, 0.9 - lift), (0.62, 0.58)], wing)
        pen.disc(0.81, 0.45, 0.035, INK)


def draw_boat(pen: Pen, rng: np.random.Generator) -> None:
    hull, sail = pick_body(rng, ("brick", "navy")), pick_body(rng, ("white", "cream"))
    stripe = pick_colour(rng, ("coral", "mustard"))
    if pick_kind(rng, 2) == 0:  # a sailing boat
        top = pick_between(rng, 0.02, 0.1)
        pen.stroke([(0.5, top), (0.5, 0.74)], 0.045, PALETTE["brown"])
        pen.polygon([(0.55, top), (0.55, 0.66), (0.95, 0.66)], sail)
        other = pick_one(rng, (sail, darken(sail, 0.2)))
        pen.polygon([(0.45, top + 0.14), (0.45, 0.66), (0.14, 0.66)], other)
        if rng.random() < 0.5:
            pen.polygon([(0.55, 0.45), (0.55, 0.56), (0.88, 0.56), (0.8, 0.45)], stripe)
        bottom = 0.96
    else:  # a steamer
        funnel = pick_colour(rng)
        pen.rectangle(0.5, 0.14, 0.66, 0.5, funnel)
        pen.rectangle(0.5, 0.22, 0.66, 0.3, stripe)
        pen.rectangle(0.24, 0.42, 0.8, 0.74, lighten(sail, 0.5))
        for x in (0.34, 0.52, 0.7):
            pen.disc(x, 0.57, 0.055, darken(hull, 0.4))
        bottom = 0.94
    pen.polygon([(0.03, 0.7), (0.97, 0.7), (0.8, bottom), (0.2, bottom)], hull)
    pen.polygon([(0.03, 0.7), (0.97, 0.7), (0.93, 0.77), (0.07, 0.77)], stripe)


def draw_car(pen: Pen, rng: np.random.Generator) -> None:
    body, glass = pick_body(rng, ("coral", "mint")), lighten(pick_colour(rng, ("sky", "cream")), 0.3)
    kind = pick_kind(rng, 3)
    if kind == 0:  # a saloon
        pen.polygon([(0.2, 0.5), (0.32, 0.24), (0.68, 0.24), (0.82, 0.5)], body)
        pen.polygon([(0.27, 0.48), (0.36, 0.3), (0.48, 0.3), (0.48, 0.48)], glass)
        pen.polygon([(0.53, 0.48), (0.53, 0.3), (0.65, 0.3), (0.74, 0.48)], glass)
        pen.polygon([(0.0, 0.53), (0.06, 0.46), (0.9, 0.46), (1.0, 0.56), (1.0, 0.74), (0.0, 0.74)], body)
    elif kind == 1:  # a small round one
        pen.polygon(trace_arc(0.48, 0.54, 0.36, 0.36, 180, 360), body)
        pen.polygon([*trace_arc(0.48, 0.52, 0.28, 0.27, 180, 264), (0.45, 0.52)], glass)
        pen.polygon([(0.51, 0.52), *trace_arc(0.48, 0.52, 0.28, 0.27, 276, 360)], glass)
        pen.polygon([(0.02, 0.6), (0.1, 0.5), (0.9, 0.5), (0.98, 0.6), (0.98, 0.74), (0.02, 0.74)], body)
    else:  # a van
        pen.polygon([(0.0, 0.22), (0.72, 0.22), (0.86, 0.46), (1.0, 0.52), (1.0, 0.76), (0.0, 0.76)], body)
        pen.polygon([(0.62, 0.46), (0.62, 0.29), (0.7, 0.29), (0.79, 0.46)], glass)
        pen.rectangle(0.36, 0.29, 0.55, 0.46, glass)
        pen.rectangle(0.0, 0.54, 0.6, 0.6, pick_colour(rng, PALE))
    pen.rectangle(0.92, 0.55, 1.0, 0.62, lighten(PALETTE["mustard"]))
    tyre = darken(pick_colour(rng, ("charcoal", "navy")), 0.5)
    for x in (0.24, 0.76):
        pen.disc(x, 0.74, 0.14, tyre)
        pen.disc(x, 0.74, 0.065, PALETTE["stone"] if kind else PALETTE["cream"])


def draw_cat(pen: Pen, rng: np.random.Generator) -> None:
    fur = pick_body(rng, ("orange", "charcoal"))
    light = sum(fur) > 330
    mark = darken(fur, 0.35) if light else lighten(fur, 0.3)
    eye = pick_colour(rng, ("leaf", "mint") if light else ("mustard", "mint"))
    rose = PALETTE["rose"]
    if pick_kind(rng, 2) == 0:  # sitting
        pen.stroke([(0.72, 0.88), (0.9, 0.84), (0.95, 0.66), (0.88, 0.5)], 0.09, mark)
        pen.polygon(
            [*trace_arc(0.5, 0.72, 0.27, 0.25, 0, 180), (0.3, 0.52), (0.4, 0.36), (0.6, 0.36), (0.7, 0.52)], fur
        )
        pen.ellipse(0.5, 0.76, 0.12, 0.16, lighten(fur, 0.45))
        x, y, reach = 0.5, 0.3, 0.2
    else:  # the face alone
        x, y, reach = 0.5, 0.56, 0.4
    for side in (-1, 1):
        pen.polygon(
            [(x + side * reach, y - 0.1 * reach), (x + side * 0.92 * reach, y - 1.4 * reach), (x, y - 0.7 * reach)], fur
        )
        pen.polygon(
            [
                (x + side * 0.82 * reach, y - 0.45 * reach),
                (x + side * 0.8 * reach, y - 1.1 * reach),
                (x + side * 0.35 * reach, y - 0.75 * reach),
            ],
            rose,
        )
    pen.ellipse(x, y, reach * 1.05, reach * 0.92, fur)
    if rng.random() < 0.5:
        for shift in (-0.25, 0.0, 0.25):
            pen.stroke(
                [(x + shift * reach, y - 0.85 * reach), (x + shift * reach, y - 0.45 * reach)], 0.1 * reach, mark
            )
    for side in (-1, 1):
        pen.ellipse(x + side * 0.42 * reach, y - 0.08 * reach, 0.19 * reach, 0.22 * reach, eye)
        pen.ellipse(x + side * 0.42 * reach, y - 0.08 * reach, 0.08 * reach, 0.2 * reach, INK)
        for fall in (0.3, 0.5):
            start = (x + side * 0.45 * reach, y + 0.38 * reach)
            pen.stroke([start, (x + side * 1.15 * reach, y + fall * reach)], 0.02, mark)
    pen.polygon(
        [(x - 0.13 * reach, y + 0.22 * reach), (x + 0.13 * reach, y + 0.22 * reach), (x, y + 0.4 * reach)], rose
    )


def draw_clock(pen: Pen, rng: np.random.Generator) -> None:
    rim, face = pick_body(rng, ("brick", "navy")), pick_colour(rng, ("white", "cream"))
    hand = pick_colour(rng, ("charcoal", "navy"))
    kind = pick_kind(rng, 3)
    y, radius = 0.5, 0.47
    if kind == 1:  # an alarm clock
        y, radius = 0.56, 0.37
        for side in (-1, 1):
            pen.stroke([(0.5 + side * 0.2, 0.85), (0.5 + side * 0.29, 0.97)], 0.08, darken(rim))
            pen.disc(0.5 + side * 0.26, 0.19, 0.15, darken(rim))
        pen.stroke([(0.5, 0.2), (0.5, 0.08)], 0.06, darken(rim))
    if kind == 2:  # a square one
        pen.rectangle(0.06, 0.06, 0.94, 0.94, rim)
        pen.rectangle(0.14, 0.14, 0.86, 0.86, face)
        radius = 0.44
    else:
        pen.disc(0.5, y, radius, rim)
        pen.disc(0.5, y, radius * 0.82, face)
    for tick in range(12):
        cos, sin = math.cos(math.radians(30 * tick)), math.sin(math.radians(30 * tick))
        outer, inner = 0.74 * radius, (0.58 if tick % 3 == 0 else 0.68) * radius
        if tick % 3 == 0 or pen.scale > 60:
            pen.stroke([(0.5 + inner * cos, y + inner * sin), (0.5 + outer * cos, y + outer * sin)], 0.03, hand)
    minute, gap = pick_between(rng, 0, 360), pick_between(rng, 60, 300)
    for angle, reach, width in ((minute, 0.62, 0.05), (minute + gap, 0.42, 0.075)):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        pen.stroke([(0.5, y), (0.5 + reach * radius * cos, y + reach * radius * sin)], width, hand)
    pen.disc(0.5, y, 0.05, hand)


def draw_fish(pen: Pen, rng: np.random.Generator) -> None:
    body = pick_body(rng, ("orange", "teal"))
    fin = pick_one(rng, (darken(body, 0.25), lighten(body, 0.4)))
    high = pick_between(rng, 0.19, 0.3)
    pen.polygon([(0.3, 0.5), (0.0, 0.5 - high - 0.05), (0.07, 0.5), (0.0, 0.5 + high + 0.05)], fin)
    pen.polygon([(0.36, 0.5 - 0.6 * high), (0.5, 0.44 - 1.4 * high), (0.72, 0.5 - 0.7 * high)], fin)
    pen.polygon([(0.45, 0.5 + 0.7 * high), (0.5, 0.56 + 1.2 * high), (0.66, 0.5 + 0.7 * high)], fin)
    pen.ellipse(0.6, 0.5, 0.38, high, body)
    kind = pick_count(rng, 0, 2)
    if kind == 0:
        for x in (0.42, 0.56):
            tall = high * 0.85
            pen.polygon([(x, 0.5 - tall), (x + 0.08, 0.5 - tall), (x + 0.1, 0.5 + tall), (x + 0.02, 0.5 + tall)], fin)
    elif kind == 1:
        pen.polygon(trace_arc(0.6, 0.5, 0.38, high, 10, 170), lighten(body, 0.45))
    pen.stroke(trace_arc(0.6, 0.5, 0.15, 0.8 * high, -50, 50), 0.03, darken(body, 0.4))
    pen.disc(0.85, 0.5 - 0.3 * high, 0.065, (255, 255, 255))
    pen.disc(0.86, 0.5 - 0.3 * high, 0.035, INK)


def draw_flower(pen: Pen, rng: np.random.Generator) -> None:
    petal = pick_body(rng, ("rose", "plum"))
    green = pick_colour(rng, ("leaf", "moss"))
    bend = pick_between(rng, -0.08, 0.08)
    pen.stroke([(0.5, 0.4), (0.5 + bend, 0.7), (0.5, 0.99)], 0.06, green)
    pen.ellipse(0.36, 0.78, 0.16, 0.065, green, 35)
    pen.ellipse(0.64, 0.82, 0.16, 0.065, lighten(green, 0.15), -35)
    if pick_kind(rng, 2) == 0:  # petals around a heart
        petals = pick_count(rng, 5, 7)
        start = pick_between(rng, 0, 60)
        for index in range(petals):
            angle = start + 360 * index / petals
            x, y = 0.5 + 0.23 * math.cos(math.radians(angle)), 0.37 + 0.23 * math.sin(math.radians(angle))
            pen.ellipse(x, y, 0.16, 0.13, darken(petal, 0.12) if index % 2 else petal, angle)
        pen.disc(0.5, 0.37, 0.13, pick_colour(rng, ("mustard", "cream")))
    else:  # a tulip
        pen.polygon(
            [*trace_arc(0.5, 0.32, 0.27, 0.26, 0, 180), (0.23, 0.04), (0.38, 0.2), (0.62, 0.2), (0.77, 0.04)], petal
        )
        pen.polygon([(0.5, 0.0), (0.66, 0.28), (0.5, 0.57), (0.34, 0.28)], darken(petal, 0.18))


def draw_house(pen: Pen, rng: np.random.Generator) -> None:
    wall, roof = pick_body(rng, ("cream", "rose")), pick_body(rng, ("brick", "coral"))
    lit = lighten(PALETTE["mustard"], 0.3) if rng.random() < 0.5 else lighten(PALETTE["sky"], 0.3)
    left = pick_between(rng, 0.1, 0.18)
    if rng.random() < 0.6:
        pen.rectangle(0.68, 0.08, 0.8, 0.4, darken(roof, 0.3))
    pen.rectangle(left, 0.42, 1 - left, 0.97, wall)
    if pick_kind(rng, 2) == 0:
        pen.polygon([(0.5, 0.04), (0.99, 0.46), (0.01, 0.46)], roof)
    else:
        pen.polygon([(0.24, 0.14), (0.76, 0.14), (0.99, 0.46), (0.01, 0.46)], roof)
    door = pick_between(rng, 0.42, 0.62)
    pen.rectangle(door, 0.64, door + 0.18, 0.97, pick_colour(rng, ("brown", "teal")))
    for x in (0.22, door + 0.24) if door > 0.5 else (0.22, 0.66):
        if x + 0.14 < 1 - left:
            pen.rectangle(x, 0.56, x + 0.16, 0.74, darken(wall, 0.45))
            pen.rectangle(x + 0.03, 0.59, x + 0.13, 0.71, lit)


def draw_kite(pen: Pen, rng: np.random.Generator) -> None:
    first, second = pick_body(rng, ("plum", "coral")), pick_body(rng, ("mustard", "mint"))
    third = pick_one(rng, (darken(first, 0.2), second))
    points = [(0.36, 0.98), (0.5, 0.92), (0.42, 0.84), (0.5, 0.74)]
    pen.stroke(points, 0.03, darken(second, 0.5))
    for x, y in ((0.36, 0.94), (0.48, 0.84)):
        bow = [(x - 0.11, y - 0.06), (x + 0.11, y + 0.06), (x + 0.11, y - 0.06), (x - 0.11, y + 0.06)]
        pen.polygon(bow, third)
    top, right, bottom, left, middle = (0.5, 0.0), (0.9, 0.3), (0.5, 0.76), (0.1, 0.3), (0.5, 0.3)
    pen.polygon([top, right, middle], first)
    pen.polygon([right, bottom, middle], second)
    pen.polygon([bottom, left, middle], pick_one(rng, (first, third)))
    pen.polygon([left, top, middle], pick_one(rng, (second, third)))
    pen.stroke([top, bottom], 0.03, darken(first, 0.6))
    pen.stroke([left, right], 0.03, darken(first, 0.6))


def draw_lamp(pen: Pen, rng: np.random.Generator) -> None:
    shade, foot = pick_body(rng, ("mustard", "rose")), pick_colour(rng, ("brown", "teal"))
    glow = lighten(PALETTE["mustard"], 0.5)
    low = pick_between(rng, 0.42, 0.52)
    pen.stroke([(0.5, low), (0.5, 0.92)], 0.07, foot)
    if rng.random() < 0.5:
        pen.ellipse(0.5, 0.74, 0.13, 0.17, foot)
    pen.polygon([(0.26, 0.97), (0.32, 0.89), (0.68, 0.89), (0.74, 0.97)], darken(foot, 0.2))
    pen.ellipse(0.5, low, 0.16, 0.1, glow)
    if pick_kind(rng, 2) == 0:  # a cloth shade
        pen.polygon([(0.32, 0.04), (0.68, 0.04), (0.9, low), (0.1, low)], shade)
        if rng.random() < 0.5:
            for x in (0.36, 0.64):
                pen.polygon(
                    [(x - 0.03, 0.04), (x + 0.03, 0.04), (1.6 * x - 0.25, low), (1.6 * x - 0.35, low)], lighten(shade)
                )
        pen.polygon([(0.13, low - 0.06), (0.87, low - 0.06), (0.9, low), (0.1, low)], darken(shade, 0.2))
    else:  # a dome
        pen.polygon(trace_arc(0.5, low, 0.42, low - 0.06, 180, 360), shade)
        pen.disc(0.5, 0.06, 0.05, foot)
        pen.polygon(
            trace_arc(0.5, low, 0.32, low - 0.14, 190, 250) + trace_arc(0.5, low, 0.24, low - 0.18, 250, 190),
            lighten(shade),
        )


def draw_moon(pen: Pen, rng: np.random.Generator) -> None:
    glow = pick_body(rng, ("cream", "sky"))
    outer, inner, shift = 0.47, pick_between(rng, 0.36, 0.4), pick_between(rng, 0.24, 0.3)
    cross = (shift**2 + outer**2 - inner**2) / (2 * shift)
    start = math.degrees(math.acos(cross / outer))
    back = math.degrees(math.atan2((outer**2 - cross**2) ** 0.5, cross - shift))
    rim = trace_arc(0.55, 0.5, outer, outer, start, 360 - start)
    pen.polygon(rim + trace_arc(0.55 + shift, 0.5, inner, inner, 360 - back, back), glow)
    if rng.random() < 0.5:
        for x, y, radius in ((0.2, 0.42, 0.05), (0.26, 0.66, 0.065), (0.34, 0.24, 0.04)):
            pen.disc(x, y, radius, darken(glow, 0.18))
    elif rng.random() < 0.6:
        pen.disc(0.27, 0.4, 0.04, INK)
        pen.stroke(trace_arc(0.36, 0.58, 0.09, 0.08, 60, 170), 0.03, INK)


def draw_star(pen: Pen, rng: np.random.Generator) -> None:
    body = pick_body(rng, ("mustard", "mustard", "cream"))
    inner = pick_between(rng, 0.2, 0.25)
    pen.polygon(trace_star(0.5, 0.52, 0.5, inner, 5), body)
    kind = pick_count(rng, 0, 2)
    if kind == 0:
        pen.polygon(trace_star(0.5, 0.52, 0.3, inner * 0.6, 5), lighten(body, 0.45))
    elif kind == 1:
        draw_face(pen, 0.5, 0.52, 0.22, INK)
    else:
        for tip in range(5):
            angle, between = math.radians(-90 + 72 * tip), math.radians(-54 + 72 * tip)
            tips = [(0.5, 0.52), (0.5 + 0.5 * math.cos(angle), 0.52 + 0.5 * math.sin(angle))]
            pen.polygon(
                [*tips, (0.5 + inner * math.cos(between), 0.52 + inner * math.sin(between))], darken(body, 0.18)
            )


def draw_sun(pen: Pen, rng: np.random.Generator) -> None:
    body = pick_body(rng, ("mustard", "orange"))
    ray = pick_one(rng, (body, darken(body, 0.15)))
    rays, kind, start = pick_count(rng, 8, 12), pick_kind(rng, 3), pick_between(rng, 0, 45)
    if kind == 0:
        pen.polygon(trace_star(0.5, 0.5, 0.5, 0.31, rays, start), ray)
    else:
        for index in range(rays):
            angle = math.radians(start + 360 * index / rays)
            cos, sin = math.cos(angle), math.sin(angle)
            far = 0.42 if kind == 2 and index % 2 else 0.48
            pen.stroke([(0.5 + 0.34 * cos, 0.5 + 0.34 * sin), (0.5 + far * cos, 0.5 + far * sin)], 0.06, ray)
    pen.disc(0.5, 0.5, 0.27, body)
    if rng.random() < 0.4:
        draw_face(pen, 0.5, 0.5, 0.22, darken(body, 0.75))
    elif rng.random() < 0.5:
        pen.disc(0.5, 0.5, 0.19, lighten(body, 0.3))


def draw_traffic_light(pen: Pen, rng: np.random.Generator) -> None:
    case = pick_body(rng, ("charcoal", "navy"))
    pole, on = pick_colour(rng, ("stone", "charcoal", "brown")), pick_count(rng, 0, 2)
    pen.rectangle(0.45, 0.66, 0.55, 1.0, pole)
    if rng.random() < 0.5:
        for y in (0.12, 0.34, 0.56):
            pen.polygon([(0.18, y - 0.06), (0.82, y - 0.06), (0.7, y + 0.06), (0.3, y + 0.06)], darken(case, 0.3))
    pen.rectangle(0.27, 0.03, 0.73, 0.7, case)
    pen.disc(0.5, 0.03, 0.05, case)
    pen.rectangle(0.31, 0.05, 0.69, 0.68, darken(case, 0.3))
    for index, (x, name) in enumerate(((0.15, "coral"), (0.365, "mustard"), (0.58, "leaf"))):
        glass = lighten(PALETTE[name], 0.15) if index == on else mix_colour(PALETTE[name], INK, 0.35)
        pen.disc(0.5, x, 0.095, glass)
        if index == on:
            pen.disc(0.47, x - 0.03, 0.035, lighten(glass, 0.6))


def draw_tree(pen: Pen, rng: np.random.Generator) -> None:
    leaves = pick_body(rng, ("leaf", "moss"))
    trunk = pick_colour(rng, ("brown", "brick"))
    if pick_kind(rng, 2) == 0:  # a broad crown
        pen.polygon([(0.44, 0.5), (0.56, 0.5), (0.6, 0.99), (0.4, 0.99)], trunk)
        pen.stroke([(0.5, 0.74), (0.66, 0.56)], 0.05, trunk)
        for x, y, radius in ((0.3, 0.44, 0.21), (0.7, 0.44, 0.21), (0.5, 0.28, 0.26), (0.5, 0.46, 0.22)):
            pen.disc(x, y, radius * pick_between(rng, 0.88, 1.08), darken(leaves, pick_between(rng, 0, 0.16)))
        if rng.random() < 0.4:
            fruit = pick_colour(rng, ("coral", "mustard", "rose", "cream"))
            for x, y in ((0.34, 0.4), (0.5, 0.22), (0.62, 0.48), (0.7, 0.36)):
                pen.disc(x, y, 0.045, fruit)
    else:  # a fir
        pen.rectangle(0.44, 0.8, 0.56, 0.99, trunk)
        wide = pick_between(rng, 0.3, 0.42)
        for index, (top, bottom) in enumerate(((0.42, 0.86), (0.22, 0.62), (0.02, 0.38))):
            reach = wide * (1 - 0.24 * index)
            pen.polygon([(0.5, top), (0.5 + reach, bottom), (0.5 - reach, bottom)], darken(leaves, 0.2 - 0.1 * index))


DRAWERS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "ball": draw_ball,
    "bird": draw_bird,
    "boat": draw_boat,
    "car": draw_car,
    "cat": draw_cat,
    "clock": draw_clock,
    "fish": draw_fish,
    "flower": draw_flower,
    "house": draw_house,
    "kite": draw_kite,
    "lamp": draw_lamp,
    "moon": draw_moon,
    "star": draw_star,
    "sun": draw_sun,
    "traffic light": draw_traffic_light,
    "tree": draw_tree,
}

LABELS: tuple[str, ...] = tuple(sorted(DRAWERS))

# How far an object may be turned to either side, in degrees; what is not here stands upright within 10.
TURNS = {"ball": 180.0, "kite": 30.0, "star": 25.0, "sun": 25.0, "fish": 25.0, "bird": 15.0, "moon": 30.0, "boat": 12.0}

# Where an object's centre usually lies between the top (0) and the bottom (1) of the picture.
HEIGHTS = {"kite": (0.1, 0.6), "star": (0.08, 0.65), "sun": (0.08, 0.6), "moon": (0.08, 0.6), "bird": (0.1, 0.8)}

STANDING = (0.3, 0.92)

REACHED = [0] + [255] * 255


def draw_object(label: str, size: float, rng: np.random.Generator) -> Image.Image:
    """Return the RGBA layer of one object of class `label`, cut to what is drawn, with hard edges (alpha 0 or 255).

    `size` is the side of the object's unit square in pixels of the layer. Raises KeyError for an unknown label.
    """
    reach = TURNS.get(label, 10.0)
    pen = Pen(
        size,
        turn=pick_between(rng, -reach, reach),
        flip=rng.random() < 0.5,
        aspect=pick_between(rng, 0.88, 1.14),
    )
    DRAWERS[label](pen, rng)
    layer = pen.layer
    alpha = layer.getchannel("A")
    shaded = pick_between(rng, 0.0, 0.3)
    if shaded > 0.08:  # one side lies in the shade
        slope = GRADIENT.resize(layer.size, Image.Resampling.NEAREST).point(
            [round(level * shaded) for level in range(256)]
        )
        slope = slope.rotate(90 * pick_count(rng, 0, 3))
        layer = Image.composite(Image.new("RGBA", layer.size, (*INK, 255)), layer, slope)
        layer.putalpha(alpha)
    if rng.random() < 0.85:
        ink = pick_colour(rng, ("white", "cream") if rng.random() < 0.2 else ("charcoal", "navy", "brown"))
        width = max(1, round(size / 48))
        ground = Image.new("RGBA", layer.size, (*ink, 0))
        # What a blur reaches at all is the shape made wider: faster than a maximum filter.
        ground.putalpha(alpha.filter(ImageFilter.BoxBlur(width)).point(REACHED))
        ground.paste(layer, (0, 0), alpha)
        layer = ground
    return layer.crop(layer.getchannel("A").getbbox())


def draw_clutter(size: float, rng: np.random.Generator) -> Image.Image:
    """Return the RGBA layer of one unlabelled shape in the objects' colours."""
    pen = Pen(size, turn=pick_between(rng, 0, 360), aspect=pick_between(rng, 0.6, 1.6))
    first, second = pick_colour(rng, tuple(PALETTE)), pick_colour(rng, tuple(PALETTE))
    kind = pick_count(rng, 0, 6)
    if kind == 0:  # an irregular polygon
        corners = pick_count(rng, 3, 6)
        angles = [math.radians(360 * (index + 0.7 * rng.random()) / corners) for index in range(corners)]
        reach = [pick_between(rng, 0.3, 0.5) for _ in angles]
        pen.polygon([(0.5 + r * math.cos(a), 0.5 + r * math.sin(a)) for r, a in zip(reach, angles, strict=True)], first)
    elif kind == 1:  # a zigzag
        points = [(x / 5, 0.5 + pick_between(rng, -0.25, 0.25)) for x in range(6)]
        pen.stroke(points, pick_between(rng, 0.06, 0.12), first)
    elif kind == 2:  # a bunch of dots
        for _ in range(pick_count(rng, 2, 5)):
            place = pick_between(rng, 0.15, 0.85), pick_between(rng, 0.15, 0.85)
            pen.disc(*place, pick_between(rng, 0.07, 0.14), pick_one(rng, (first, second)))
    elif kind == 3:  # a blob
        for _ in range(4):
            pen.disc(pick_between(rng, 0.3, 0.7), pick_between(rng, 0.3, 0.7), pick_between(rng, 0.15, 0.28), first)
    elif kind == 4:  # a disc or a ring
        pen.disc(0.5, 0.5, 0.45, first)
        if rng.random() < 0.5:
            pen.disc(0.5, 0.5, 0.28, second)
    elif kind == 5:  # a striped tile
        pen.rectangle(0.1, 0.25, 0.9, 0.75, first)
        pen.rectangle(0.1, 0.42, 0.9, 0.58, second)
    else:  # an arc
        pen.stroke(trace_arc(0.5, 0.6, 0.42, 0.35, 190, 350), pick_between(rng, 0.06, 0.14), first)
    box = pen.layer.getchannel("A").getbbox()
    return pen.layer.crop(box) if box else pen.layer


def draw_occluder(size: float, rng: np.random.Generator) -> Image.Image:
    """Return the RGBA layer of a bar, a pair of posts or some foliage that covers part of an object of `size`."""
    kind = pick_count(rng, 0, 2)
    if kind == 0:  # a bar across
        pen = Pen(size * 1.6, turn=pick_one(rng, (0.0, 90.0, 45.0, -45.0)) + pick_between(rng, -12, 12))
        colour, width = pick_colour(rng, (*DARK, "stone", "cream")), pick_between(rng, 0.05, 0.09)
        pen.rectangle(0.0, 0.5 - width, 1.0, 0.5 + width, colour)
        pen.rectangle(0.0, 0.5 - width, 1.0, 0.5 - 0.4 * width, lighten(colour, 0.2))
    elif kind == 1:  # posts
        pen = Pen(size * 1.3, turn=pick_between(rng, -5, 5))
        colour = pick_colour(rng, ("brown", "white", "stone", "brick", "charcoal"))
        pen.rectangle(0.0, 0.52, 1.0, 0.6, darken(colour))
        for x in (0.06, 0.44, 0.82):
            pen.polygon([(x, 0.95), (x, 0.25), (x + 0.06, 0.17), (x + 0.12, 0.25), (x + 0.12, 0.95)], colour)
    else:  # foliage
        pen = Pen(size * pick_between(rng, 0.6, 0.9), turn=pick_between(rng, 0, 360))
        colour = pick_colour(rng, ("leaf", "moss", "teal", "mint", "plum", "orange"))
        for _ in range(7):
            place = pick_between(rng, 0.2, 0.8), pick_between(rng, 0.3, 0.7)
            leaf = darken(colour, pick_between(rng, 0, 0.3))
            pen.ellipse(*place, pick_between(rng, 0.12, 0.24), pick_between(rng, 0.06, 0.12), leaf, 180 * rng.random())
    return pen.layer.crop(pen.layer.getchannel("A").getbbox())


# ---- Backgrounds: each paints the whole `scene`, which is `side` pixels wide and high. ----
def paint_gradient(side: int, top: Colour, bottom: Colour) -> Image.Image:
    return Image.composite(
        Image.new("RGB", (side, side), bottom),
        Image.new("RGB", (side, side), top),
        GRADIENT.resize((side, side), Image.Resampling.NEAREST),
    )


GRADIENT = Image.linear_gradient("L")

MIST: Colour = (244, 242, 236)

DUSK: Colour = (58, 62, 92)


def add_haze(scene: Image.Image, colour: Colour) -> Image.Image:
    # A mask blends in whole numbers; Image.blend would use floats, whose last bit differs between processors.
    scene.paste(colour, (0, 0), Image.new("L", scene.size, round(255 * HAZE)))
    return scene


def trace_hills(rng: np.random.Generator, side: int, height: float, rise: float) -> list[tuple[int, int]]:
    """Return the polygon under a wavy line at about `height` of the picture that moves by at most `rise`."""
    waves = [(pick_between(rng, 0.5, 2.2), pick_between(rng, 0, 6.3)) for _ in range(2)]
    points = []
    for step in range(17):
        x = step / 16
        lift = sum(math.sin(6.283 * speed * x + phase) for speed, phase in waves) / 2
        points.append((round(x * side), round((height + rise * lift) * side)))
    return [*points, (side, side), (0, side)]


def paint_sea(side: int, rng: np.random.Generator) -> Image.Image:
    sky, water = (
        pick_colour(rng, ("sky", "cream", "rose", "lilac", "mint")),
        pick_colour(rng, ("blue", "teal", "sky", "navy")),
    )
    scene = paint_gradient(side, lighten(sky, 0.2), lighten(sky, 0.6))
    level = round(pick_between(rng, 0.2, 0.55) * side)
    scene.paste(paint_gradient(side, lighten(water, 0.25), darken(water, 0.15)), (0, level))
    pencil = ImageDraw.Draw(scene)
    foam = lighten(water, 0.4)
    for _ in range(pick_count(rng, 5, 12)):
        x, y, width = rng.random() * side, level + rng.random() * (side - level), side * pick_between(rng, 0.05, 0.12)
        pencil.arc([round(v) for v in (x, y, x + width, y + width / 2)], 20, 160, fill=foam, width=2)
    if rng.random() < 0.35:
        pencil.polygon(trace_hills(rng, side, 0.9, 0.04), fill=pick_colour(rng, ("cream", "mustard")))
    return add_haze(scene, MIST)


def paint_street(side: int, rng: np.random.Generator) -> Image.Image:
    sky = pick_colour(rng, ("stone", "sky", "cream", "lilac", "rose"))
    scene = paint_gradient(side, lighten(sky, 0.1), lighten(sky, 0.5))
    pencil = ImageDraw.Draw(scene)
    kerb, x = round(pick_between(rng, 0.55, 0.72) * side), 0.0
    block = pick_colour(rng, ("stone", "plum", "navy", "brown", "lilac", "rose", "teal"))
    while x < 1:
        width, top = pick_between(rng, 0.12, 0.28), round(pick_between(rng, 0.12, 0.45) * side)
        wall = lighten(block, pick_between(rng, 0.35, 0.65))
        left, right = round(x * side), round((x + width) * side)
        pencil.rectangle((left, top, right, kerb), fill=wall)
        pane = pick_one(rng, (darken(wall, 0.2), lighten(wall, 0.5), mix_colour(wall, PALETTE["mustard"], 0.5)))
        step = max(4, side // 16)
        for row in range(top + step // 2, kerb - step, step):
            for column in range(left + step // 2, right - step // 2, step):
                pencil.rectangle((column, row, column + step // 3, row + step // 2), fill=pane)
        x += width
    road = pick_colour(rng, ("charcoal", "stone", "charcoal", "navy"))
    pencil.rectangle((0, kerb, side, side), fill=road)
    pencil.rectangle((0, kerb, side, kerb + side // 24), fill=lighten(road, 0.4))
    middle, dash = (kerb + side) // 2 + side // 48, side // 9
    paint = pick_one(rng, (lighten(road, 0.6), PALETTE["cream"]))
    for x in range(-round(rng.random() * dash), side, dash + dash // 2):
        pencil.rectangle((x, middle, x + dash, middle + side // 48), fill=paint)
    return add_haze(scene, MIST)


def paint_garden(side: int, rng: np.random.Generator) -> Image.Image:
    sky, green = pick_colour(rng, ("sky", "mint", "cream", "rose")), pick_colour(rng, ("leaf", "mint", "moss", "leaf"))
    scene = paint_gradient(side, lighten(sky, 0.3), lighten(sky, 0.6))
    pencil = ImageDraw.Draw(scene)
    level = pick_between(rng, 0.35, 0.6)
    hedge = darken(green, pick_between(rng, 0.1, 0.35))
    for step in range(13):
        x, y = side * step / 12, side * (level + pick_between(rng, -0.05, 0.03))
        reach = side * pick_between(rng, 0.06, 0.1)
        pencil.ellipse([round(v) for v in (x - reach, y - reach, x + reach, y + reach)], fill=hedge)
    pencil.rectangle((0, round(level * side), side, side), fill=hedge)
    ground = level + pick_between(rng, 0.04, 0.12)
    pencil.rectangle((0, round(ground * side), side, side), fill=lighten(green, 0.15))
    if rng.random() < 0.5:
        plank, width = pick_colour(rng, ("white", "cream", "brown", "sky")), max(3, side // 22)
        top = round((ground - 0.1) * side)
        pencil.rectangle((0, top + width, side, top + width + width // 2), fill=darken(plank, 0.1))
        for x in range(0, side, 2 * width):
            pencil.rectangle((x, top, x + width - 1, top + 4 * width), fill=plank)
    for _ in range(pick_count(rng, 10, 26)):
        x, y = round(rng.random() * side), round((ground + (1 - ground) * rng.random()) * side)
        pencil.line((x, y, x + pick_count(rng, -4, 4), y - side // 36), fill=darken(green, 0.2), width=2)
    return add_haze(scene, MIST)


def paint_night(side: int, rng: np.random.Generator) -> Image.Image:
    sky = darken(pick_colour(rng, ("navy", "plum", "teal", "charcoal", "blue")), pick_between(rng, 0.2, 0.5))
    scene = paint_gradient(side, sky, mix_colour(sky, pick_colour(rng, ("lilac", "rose", "blue", "teal")), 0.5))
    pencil = ImageDraw.Draw(scene)
    for _ in range(pick_count(rng, 6, 18)):
        x, y = round(rng.random() * side), round(rng.random() * side * 0.6)
        pencil.rectangle((x, y, x + 1, y + 1), fill=lighten(sky, 0.6))
    hill = mix_colour(sky, pick_colour(rng, ("moss", "navy", "plum", "teal")), 0.6)
    for step in range(2):
        pencil.polygon(trace_hills(rng, side, 0.6 + 0.14 * step, 0.07), fill=darken(hill, 0.3 * step))
    return add_haze(scene, DUSK)


def paint_room(side: int, rng: np.random.Generator) -> Image.Image:
    wall = pick_colour(rng, ("cream", "mint", "sky", "rose", "lilac", "mustard", "teal", "stone"))
    scene = paint_gradient(side, lighten(wall, 0.3), lighten(wall, 0.1))
    pencil = ImageDraw.Draw(scene)
    paper, kind, step = (
        pick_one(rng, (lighten(wall, 0.5), darken(wall, 0.1))),
        pick_count(rng, 0, 2),
        max(6, side // 11),
    )
    if kind == 0:
        for x in range(pick_count(rng, 0, step), side, step):
            pencil.rectangle((x, 0, x + step // 3, side), fill=paper)
    elif kind == 1:
        for row, y in enumerate(range(0, side, step)):
            for x in range((row % 2) * step // 2, side, step):
                pencil.ellipse((x, y, x + step // 4, y + step // 4), fill=paper)
    level = round(pick_between(rng, 0.6, 0.78) * side)
    floor = pick_colour(rng, ("brown", "orange", "stone", "brick", "plum"))
    if rng.random() < 0.4:  # a window or a picture on the wall
        x, y, width = (
            round(pick_between(rng, low, high) * side) for low, high in ((0.1, 0.6), (0.08, 0.2), (0.2, 0.3))
        )
        pencil.rectangle((x, y, x + width, y + width), fill=lighten(wall, 0.7))
        inset = max(2, width // 10)
        glass = pick_colour(rng, ("sky", "navy", "lilac", "cream"))
        pencil.rectangle((x + inset, y + inset, x + width - inset, y + width - inset), fill=glass)
        pencil.rectangle((x, y + width // 2 - 1, x + width, y + width // 2 + 1), fill=lighten(wall, 0.7))
    scene.paste(paint_gradient(side, lighten(floor, 0.35), darken(floor, 0.3)), (0, level))
    pencil.rectangle((0, level - side // 40, side, level), fill=lighten(wall, 0.6))
    if rng.random() < 0.5:
        rug = pick_colour(rng, VIVID)
        pencil.ellipse((side // 8, level + side // 16, side - side // 8, side - side // 40), fill=lighten(rug, 0.2))
        pencil.ellipse((side // 5, level + side // 11, side - side // 5, side - side // 18), fill=lighten(rug, 0.4))
    return add_haze(scene, MIST)


def paint_park(side: int, rng: np.random.Generator) -> Image.Image:
    sky, green = (
        pick_colour(rng, ("sky", "cream", "blue", "lilac")),
        pick_colour(rng, ("leaf", "mint", "mustard", "moss")),
    )
    scene = paint_gradient(side, lighten(sky, 0.1), lighten(sky, 0.55))
    pencil = ImageDraw.Draw(scene)
    for _ in range(pick_count(rng, 1, 3)):
        x, y, width = rng.random() * side, side * pick_between(rng, 0.05, 0.4), side * pick_between(rng, 0.08, 0.16)
        for shift, rise in ((0, 0.0), (0.6, 0.35), (1.2, 0.0)):
            left, top = x + shift * width - width, y - rise * width
            pencil.ellipse([round(v) for v in (left, top, left + width, top + 0.7 * width)], fill=lighten(sky, 0.75))
    level = pick_between(rng, 0.5, 0.68)
    pencil.polygon(trace_hills(rng, side, level, 0.06), fill=lighten(green, 0.25))
    pencil.polygon(trace_hills(rng, side, level + 0.12, 0.05), fill=green)
    if rng.random() < 0.5:
        path, x = pick_colour(rng, ("cream", "stone", "mustard")), pick_between(rng, 0.2, 0.8)
        corners = [(x - 0.02, level + 0.16), (x + 0.02, level + 0.16), (x + 0.3, 1.0), (x - 0.1, 1.0)]
        pencil.polygon([(round(u * side), round(v * side)) for u, v in corners], fill=path)
    return add_haze(scene, MIST)


class Theme(NamedTuple):
    paint: Callable[[int, np.random.Generator], Image.Image]
    weights: dict[str, float]  # how likely each label is in this theme, relative to the others; no entry means 0


THEMES: dict[str, Theme] = {
    "sea": Theme(paint_sea, {"boat": 5, "fish": 4, "bird": 2, "sun": 2, "kite": 1.2, "ball": 0.8}),
    "street": Theme(
        paint_street,
        {"car": 5, "traffic light": 5, "house": 2, "tree": 1, "bird": 0.8, "clock": 1.5, "lamp": 1, "cat": 0.6},
    ),
    "garden": Theme(
        paint_garden, {"flower": 4, "tree": 2, "cat": 1.8, "bird": 2, "sun": 1.6, "ball": 0.8, "house": 1.2, "fish": 1}
    ),
    "night village": Theme(
        paint_night, {"moon": 6, "star": 5, "house": 2.2, "lamp": 1.4, "cat": 1.4, "tree": 1, "car": 1}
    ),
    "room": Theme(
        paint_room, {"lamp": 4, "clock": 4.5, "cat": 2.5, "ball": 1.8, "flower": 1.6, "fish": 1.4, "star": 0.8}
    ),
    "park": Theme(paint_park, {"kite": 5, "ball": 3, "tree": 2.5, "bird": 1.4, "sun": 2, "flower": 1.2, "car": 0.6}),
}


# ---- Scenes ----
@dataclass(frozen=True)
class SceneObject:
    """One labelled object: its label, its visible box (xmin, ymin, xmax, ymax; pixels from 1, inclusive), its flags."""

    label: str
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


def plan_labels(rng: np.random.Generator) -> tuple[str, list[str]]:
    """Return a scene's theme and the labels of its objects, back to front; a label may come twice."""
    names = tuple(THEMES)
    theme = pick_one(rng, names)
    source = pick_one(rng, names) if rng.random() < SWAP_PROBABILITY else theme
    weights = THEMES[source].weights
    count = 1 + pick_weighted(rng, OBJECT_COUNT)
    labels = [tuple(weights)[pick_weighted(rng, tuple(weights.values()))] for _ in range(count)]
    if rng.random() < STRAY_PROBABILITY:
        labels[int(rng.random() * count)] = pick_one(rng, [label for label in LABELS if label not in weights])
    return theme, labels


def choose_place(
    rng: np.random.Generator, label: str, size: float, taken: Sequence[tuple[float, float, float]]
) -> Point:
    """Return a centre (x, y) in fractions of the picture for an object of `size`; `taken` holds (x, y, size)."""
    low, high = HEIGHTS.get(label, STANDING) if rng.random() < 0.8 else (0.1, 0.9)
    free = rng.random() >= OVERLAP_PROBABILITY
    margin = pick_between(rng, -0.05, 0.25) * size if rng.random() < TRUNCATION_PROBABILITY else 0.55 * size
    best, least = (0.5, 0.5), math.inf
    for _ in range(14):
        x, y = pick_between(rng, margin, 1 - margin), pick_between(rng, low, high)
        y = min(max(y, margin), 1 - margin)
        crowding = 0.0
        for other_x, other_y, other_size in taken:
            room = 0.5 * (size + other_size)
            # The wanted distance is shorter where objects may overlap, so that both can still be named.
            room *= 1.0 if free else 0.6
            crowding = max(crowding, 1 - max(abs(x - other_x), abs(y - other_y)) / room)
        if crowding < least:
            best, least = (x, y), crowding
        if least <= 0:
            break
    return best


def compose_scene(seed: int, index: int, image_size: int = 128) -> tuple[Image.Image, list[SceneObject]]:
    """Return picture number `index` of the dataset `seed` (RGB, `image_size` pixels square) and its objects.

    Deterministic in its three arguments. The list holds only objects of which something can be seen, one at least.
    """
    rng = np.random.default_rng((seed, index))
    while True:
        scene, objects = try_scene(rng, image_size)
        if objects:
            return scene, objects


def try_scene(rng: np.random.Generator, image_size: int) -> tuple[Image.Image, list[SceneObject]]:
    side = SUPERSAMPLING * image_size
    theme, labels = plan_labels(rng)
    scene = THEMES[theme].paint(side, rng)
    owner = np.zeros((side, side), dtype=np.uint8)  # which object shows at a pixel: its position from 1, or 0
    for _ in range(pick_count(rng, *CLUTTER_COUNT)):
        layer = draw_clutter(side * pick_log_between(rng, *CLUTTER_SIZE), rng)
        paste_layer(scene, owner, layer, rng.random() * side, rng.random() * side, 0)
    taken: list[tuple[float, float, float]] = []
    drawn = []  # a whole object's area in pixels and whether the picture's edge cuts it
    for number, label in enumerate(labels, start=1):
        size = pick_log_between(rng, *(FAR_SIZE if rng.random() < FAR_PROBABILITY else OBJECT_SIZE))
        x, y = choose_place(rng, label, size, taken)
        taken.append((x, y, size))
        layer = draw_object(label, side * size, rng)
        drawn.append(paste_layer(scene, owner, layer, x * side, y * side, number))
    for x, y, size in taken:
        if rng.random() < OCCLUSION_PROBABILITY:
            layer = draw_occluder(side * size, rng)
            shift_x, shift_y = (pick_between(rng, -0.4, 0.4) * size for _ in range(2))
            paste_layer(scene, owner, layer, (x + shift_x) * side, (y + shift_y) * side, 0)
    picture = add_grain(scene.resize((image_size, image_size), Image.Resampling.LANCZOS), rng)
    objects = []
    for number, (label, (area, cut)) in enumerate(zip(labels, drawn, strict=True), start=1):
        rows, columns = np.nonzero(owner == number)
        if not len(rows):
            continue
        box = tuple(int(value) // SUPERSAMPLING + 1 for value in (columns.min(), rows.min(), columns.max(), rows.max()))
        longer = max(box[2] - box[0], box[3] - box[1]) + 1
        difficult = len(rows) < DIFFICULT_VISIBLE * area or longer < DIFFICULT_SIDE * image_size
        objects.append(SceneObject(label, box, cut, difficult))
    return picture, objects


def paste_layer(
    scene: Image.Image, owner: np.ndarray, layer: Image.Image, x: float, y: float, number: int
) -> tuple[int, bool]:
    """Put `layer` with its centre at (x, y) on `scene`, mark its pixels in `owner`; return its area and whether cut."""
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
    """Return `picture` with soft stains of light and fine grain, in whole numbers so that every machine agrees."""
    width, height = picture.size
    stains = Image.fromarray((rng.random((5, 5)) * 256).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    light = (np.asarray(stains, dtype=np.int16) - 128) // 10
    grain = (rng.random((height, width)) * (2 * GRAIN + 1)).astype(np.int16) - GRAIN
    shift = (light + grain)[:, :, None]
    return Image.fromarray(np.clip(np.asarray(picture, dtype=np.int16) + shift, 0, 255).astype(np.uint8))


# ---- Files ----
EDGES = ("xmin", "ymin", "xmax", "ymax")


def format_annotation(name: str, image_size: int, objects: Sequence[SceneObject]) -> str:
    """Return the XML text that Pascal VOC 2007 would have for the picture file `name`."""
    lines = [
        "<annotation>",
        "\t<folder>mini</folder>",
        f"\t<filename>{name}</filename>",
        "\t<source>",
        "\t\t<database>mini</database>",
        "\t\t<annotation>mini</annotation>",
        "\t\t<image>drawn</image>",
        "\t</source>",
        "\t<size>",
        f"\t\t<width>{image_size}</width>",
        f"\t\t<height>{image_size}</height>",
        "\t\t<depth>3</depth>",
        "\t</size>",
        "\t<segmented>0</segmented>",
    ]
    for item in objects:
        lines += [
            "\t<object>",
            f"\t\t<name>{item.label}</name>",
            "\t\t<pose>Unspecified</pose>",
            f"\t\t<truncated>{int(item.truncated)}</truncated>",
            f"\t\t<difficult>{int(item.difficult)}</difficult>",
            "\t\t<bndbox>",
            *(f"\t\t\t<{edge}>{value}</{edge}>" for edge, value in zip(EDGES, item.box, strict=True)),
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def make_mini(
    root: str | os.PathLike,
    *,
    seed: int = 0,
    train_images: int = 1000,
    test_images: int = 300,
    image_size: int = 128,
    progress: bool = True,
) -> Path:
    """Write the dataset under `root` in Pascal VOC's layout and return `root`.

    Pictures are `JPEGImages/000001.jpg` and on, RGB, `image_size` pixels square; the first `train_images` of them are
    listed in `ImageSets/Main/trainval.txt`, the next `test_images` in `test.txt`. Picture k and its annotation depend
    on `seed`, k and `image_size` alone, and are the same bytes wherever the same Pillow build draws them. The lists
    are taken away first and written last: where both are there, everything they name is complete. Files of an
    earlier, larger run stay but are in no list. Raises UserError for a number out of range, and for a `root` that
    holds somebody else's pictures.
    """
    root = Path(root)
    for name, value, least in (
        ("seed", seed, 0),
        ("train_images", train_images, 1),
        ("test_images", test_images, 1),
        ("image_size", image_size, SMALLEST_IMAGE),
    ):
        if value < least:
            raise UserError(f"{name} is {value}; it must be {least} or more")
    if train_images + test_images > 999_999:
        raise UserError(f"train_images + test_images is {train_images + test_images}; names have six digits")
    pictures, annotations, lists = root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main"
    refuse_foreign_root(root)
    for folder in (pictures, annotations, lists):
        folder.mkdir(parents=True, exist_ok=True)
    members = {"trainval.txt": range(1, train_images + 1)}
    members["test.txt"] = range(train_images + 1, train_images + test_images + 1)
    for name in members:
        (lists / name).unlink(missing_ok=True)
    for index in tqdm(range(1, train_images + test_images + 1), desc="mini", unit="image", disable=not progress):
        picture, objects = compose_scene(seed, index, image_size)
        name = f"{index:06d}"
        # The annotation first: it is what tells a later run that the picture is ours.
        text = format_annotation(f"{name}.jpg", image_size, objects)
        (annotations / f"{name}.xml").write_bytes(text.encode())
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        (pictures / f"{name}.jpg").write_bytes(stream.getvalue())
    for name, indices in members.items():
        fresh = lists / f"{name}.tmp"
        fresh.write_bytes("".join(f"{index:06d}\n" for index in indices).encode())
        os.replace(fresh, lists / name)
    return root


def refuse_foreign_root(root: Path) -> None:
    """Raise UserError where `root` holds a picture that this module did not make: the names would clash."""
    annotation = root / "Annotations" / "000001.xml"
    if annotation.exists():
        ours = b"<folder>mini</folder>" in annotation.read_bytes()
    else:
        ours = not any((root / "JPEGImages").glob("*.jpg"))
    if not ours:
        raise UserError(f"{root} holds pictures that are not mini's; choose an empty folder")
