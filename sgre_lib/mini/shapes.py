"""The shapes that objects are made of, in a unit square; points on arcs and stars."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from .colours import Colour

Point = tuple[float, float]

GRADIENT = Image.linear_gradient("L")


def polar(x: float, y: float, radius: float, angle: float) -> Point:
    """The point `radius` away from (x, y) at `angle` (degrees, clockwise from the right)."""
    return x + radius * math.cos(math.radians(angle)), y + radius * math.sin(math.radians(angle))


def trace_arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0) -> list[Point]:
    """Points on an ellipse from angle `start` to `stop` (degrees, clockwise), the ellipse turned by `turn`."""
    steps = max(3, round(abs(stop - start) / 12))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    points = []
    for step in range(steps + 1):
        angle = math.radians(start + (stop - start) * step / steps)
        u, v = rx * math.cos(angle), ry * math.sin(angle)
        points.append((x + u * cos - v * sin, y + u * sin + v * cos))
    return points


def trace_star(x: float, y: float, outer: float, inner: float, tips: int, start: float = -90.0) -> list[Point]:
    return [polar(x, y, inner if step % 2 else outer, start + 180 * step / tips) for step in range(2 * tips)]


class ObjectCanvas:
    """Draws in a unit square (x to the right, y down) on a transparent square layer around it.

    The unit square is `size` layer pixels wide, mirrored where `flip`, stretched by `aspect` (width over height, area
    kept), turned clockwise by `turn` degrees and put in the layer's centre.
    """

    SHAPES = ("polygon", "rectangle", "ellipse", "disc", "line", "face")

    def __init__(self, size: float, turn: float = 0.0, flip: bool = False, aspect: float = 1.0):
        side = math.ceil(size * 1.5 * max(aspect, 1 / aspect) ** 0.5) + 8
        self.layer, self.scale = Image.new("RGBA", (side, side)), size
        self.pencil = ImageDraw.Draw(self.layer)
        across = size * aspect**0.5 * (-1 if flip else 1)
        along = size / aspect**0.5
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        self._map = (across * cos, -along * sin, across * sin, along * cos, side / 2)

    def place(self, point: Point) -> tuple[int, int]:
        # Whole pixels: the last bit of a sine differs between machines, and rounding keeps it out of the picture.
        a, b, c, d, middle = self._map
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
