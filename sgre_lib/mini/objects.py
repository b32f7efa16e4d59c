"""Objects, clutter and what stands in front, as layers: drawn by the tables objects.toml and clutter.toml."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .chance import FIXED, Colour, happens, pick_between, pick_colour, pick_count, pick_one
from .drawings import Point, follow, read_drawings, trace_arc

OBJECTS, CLUTTER = read_drawings("objects"), read_drawings("clutter")
OCCLUDERS = ("bar", "posts", "foliage")
LABELS: tuple[str, ...] = tuple(sorted(OBJECTS))
GRADIENT = Image.linear_gradient("L")


class ObjectCanvas:
    """Draws in a unit square (x to the right, y down) on a transparent square layer around it."""

    SHAPES = ("unit", "polygon", "rectangle", "ellipse", "disc", "line", "face")

    def __init__(self, size: float):
        self.size = size

    def unit(self, size: float = 1.0, turn: float = 0.0, flip: bool = False, aspect: float = 1.0) -> None:
        """Choose the unit square, before anything is drawn in it: where it lies on the layer.

        It is `size` times the canvas' size wide in pixels, mirrored where `flip`, stretched by `aspect` (width over
        height, area kept), turned clockwise by `turn` degrees and put in the layer's centre.
        """
        self.scale = self.size * size
        side = math.ceil(self.scale * 1.5 * max(aspect, 1 / aspect) ** 0.5) + 8
        self.layer = Image.new("RGBA", (side, side))
        self.pencil = ImageDraw.Draw(self.layer)
        across = self.scale * aspect**0.5 * (-1 if flip else 1)
        along = self.scale / aspect**0.5
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        self.map = (across * cos, -along * sin, across * sin, along * cos, side / 2)

    def place(self, point: Point) -> tuple[int, int]:
        # Whole pixels: the last bit of a sine differs between machines, and rounding keeps it out of the picture.
        a, b, c, d, middle = self.map
        u, v = point[0] - 0.5, point[1] - 0.5
        return (math.floor(a * u + b * v + middle + 0.5), math.floor(c * u + d * v + middle + 0.5))

    def polygon(self, *points: Point, fill: Colour) -> None:
        self.pencil.polygon([self.place(point) for point in points], fill=fill)

    def rectangle(self, left: float, top: float, right: float, bottom: float, *, fill: Colour) -> None:
        self.polygon((left, top), (right, top), (right, bottom), (left, bottom), fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, *, fill: Colour, turn: float = 0.0) -> None:
        self.polygon(*trace_arc(x, y, rx, ry, 0, 360, turn), fill=fill)

    def disc(self, x: float, y: float, radius: float, *, fill: Colour) -> None:
        self.ellipse(x, y, radius, radius, fill=fill)

    def line(self, *points: Point, width: float, fill: Colour) -> None:
        """A line through `points`, `width` of the unit square thick (2 pixels at least), with round joints."""
        thick = max(2, round(width * self.scale))
        placed = [self.place(point) for point in points]
        self.pencil.line(placed, fill=fill, width=thick)
        if thick > 3:
            half = thick // 2
            for x, y in placed:
                self.pencil.ellipse((x - half, y - half, x + half, y + half), fill=fill)

    def face(self, x: float, y: float, reach: float, *, fill: Colour) -> None:
        """Two eyes and a smile around (x, y); a face says nothing about the label, several objects may wear one."""
        for side in (-1, 1):
            self.disc(x + side * 0.4 * reach, y - 0.15 * reach, 0.13 * reach, fill=fill)
        smile = trace_arc(x, y + 0.05 * reach, 0.45 * reach, 0.4 * reach, 25, 155)
        self.line(*smile, width=0.12 * reach, fill=fill)


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
        ground.putalpha(alpha.filter(ImageFilter.BoxBlur(max(1, round(size / 48)))).point([0] + [255] * 255))
        ground.paste(layer, (0, 0), alpha)
        layer = ground
    return layer.crop(layer.getchannel("A").getbbox())


def draw_clutter(size: float, rng: np.random.Generator, *, occluding: bool = False) -> Image.Image:
    """The RGBA layer of one unlabelled shape in the objects' colours, cut to what is drawn.

    occluding: instead, of a bar, a row of posts or some foliage that covers part of an object of `size`.
    """
    layer = _draw_layer(CLUTTER[pick_one(rng, OCCLUDERS) if occluding else "clutter"], size, rng)
    return layer.crop(layer.getchannel("A").getbbox())


def _draw_layer(drawing: dict[str, Any], size: float, rng: np.random.Generator) -> Image.Image:
    """A drawing in a unit square of `size` pixels (times the `size` that it says), with room around it."""
    canvas = ObjectCanvas(size)
    follow(drawing["draw"], rng, scale=size, **{shape: getattr(canvas, shape) for shape in canvas.SHAPES})
    return canvas.layer
