"""Reads the tables of drawings (objects.toml, clutter.toml, themes.toml) and follows their steps.

A drawing is a list of steps, done in order:

    "name = expression"                          sets a variable
    { disc = [x, y, radius], fill = colour }     puts a shape on the canvas: `objects.py` and `scenes.py` say which
    { draw = [step, ...] }                       steps that belong together

A table may also say `when = condition`, or `for = "name ..."` and `in = values`: then it is done for each value, those
where the condition does not hold left out. Wherever a number or a colour is wanted, text is an expression in Python's
syntax: arithmetic, comparisons, lists, and calls of the functions that are named here. Nothing else is let through.
A drawing is checked and compiled once, when its table is read.
"""

import ast
import functools
import math
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from ..base.files import read_toml
from . import chance

Point = tuple[float, float]

UNIT = ("size", "turn", "flip", "aspect")
"""What a drawing may say of its unit square; what is left to chance in it is drawn first, in this order."""

# What Python may stand in a table: steps, values, what is done with them, and signs.
STEPS = (ast.Module, ast.Assign, ast.For, ast.If, ast.Expr)
VALUES = (ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Starred, ast.ListComp, ast.comprehension)
OPERATIONS = (ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)
SIGNS = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def polar(x: float, y: float, radius: float, angle: float) -> Point:
    """The point `radius` away from (x, y) at `angle` (degrees, clockwise from the right)."""
    return x + radius * math.cos(math.radians(angle)), y + radius * math.sin(math.radians(angle))


def trace_arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0) -> list[Point]:
    """Points on an ellipse from angle `start` to `stop` (degrees, clockwise), the ellipse turned by `turn`."""
    steps = max(3, round(abs(stop - start) / 12))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)]
    places = [(rx * math.cos(angle), ry * math.sin(angle)) for angle in angles]
    return [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in places]


def trace_star(x: float, y: float, outer: float, inner: float, tips: int, start: float = -90.0) -> list[Point]:
    return [polar(x, y, inner if step % 2 else outer, start + 180 * step / tips) for step in range(2 * tips)]


CONSTANT: dict[str, Any] = {
    "__builtins__": {},
    **chance.PALETTE,
    **chance.FIXED,
    **chance.GROUPS,
    **{f.__name__: f for f in (max, min, range, round, sum, chance.darken, chance.lighten, polar)},
    "mix": chance.mix_colour,
    "arc": trace_arc,
    "star": trace_star,
    "acos": lambda x: math.degrees(math.acos(x)),
    "atan2": lambda y, x: math.degrees(math.atan2(y, x)),
}

BY_CHANCE = {  # these draw from the picture's generator
    "chance": chance.happens,
    "between": chance.pick_between,
    "count": chance.pick_count,
    "one": chance.pick_one,
    "kind_of": chance.pick_kind,
    "colour": chance.pick_colour,
    "body_colour": chance.pick_body,
}


def read_drawings(table: str) -> dict[str, dict[str, Any]]:
    """The drawings of a table (its file's name without the ending), their steps under `draw` ready for `follow`.

    What the table's head says holds where a drawing is silent.
    """
    content = read_toml(Path(__file__).with_name(f"{table}.toml"))
    head = {name: value for name, value in content.items() if not isinstance(value, dict)}
    drawings = {name: head | drawing for name, drawing in content.items() if name not in head}
    for drawing in drawings.values():
        unit = {name: drawing[name] for name in UNIT if name in drawing}
        drawing["draw"] = compile_steps([{"unit": [], **unit}, *drawing["draw"]] if unit else drawing["draw"])
    return drawings


def compile_steps(steps: list[str | dict[str, Any]]) -> CodeType:
    """The steps of a drawing, checked; ValueError where one is more than a table may say."""
    tree = ast.parse("\n".join(line for step in steps for line in _write_step(step)))
    for node in ast.walk(tree):
        if not isinstance(node, STEPS + VALUES + OPERATIONS + SIGNS) or getattr(node, "id", "").startswith("_"):
            raise ValueError(f"a drawing may not say {ast.unparse(node)}")
    return compile(tree, "<drawing>", "exec")


def follow(steps: CodeType, rng: np.random.Generator, **values: Any) -> None:
    """Do the steps of a drawing. values: what expressions may name beside what is named here, the shapes among it."""
    names = {**CONSTANT, **{name: functools.partial(pick, rng) for name, pick in BY_CHANCE.items()}, **values}
    exec(steps, names)  # only what `compile_steps` let through, without builtins


def _write(value: Any) -> str:
    """A table's value as the text of an expression."""
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    return value if isinstance(value, str) else repr(value)


def _write_step(step: str | dict[str, Any], indent: str = "") -> list[str]:
    """The lines of Python that a step stands for."""
    if isinstance(step, str):
        return [indent + step]
    table, lines = dict(step), []
    if "for" in table:
        lines.append(f"{indent}for {','.join(table.pop('for').split())} in {_write(table.pop('in'))}:")
        indent += " "
    if "when" in table:
        lines.append(f"{indent}if {table.pop('when')}:")
        indent += " "
    if "draw" in table:
        return lines + [line for inner in table["draw"] for line in _write_step(inner, indent)]
    (shape, geometry), *style = table.items()
    given = [*map(_write, geometry), *(f"{name}={_write(value)}" for name, value in style)]
    return [*lines, f"{indent}{shape}({', '.join(given)})"]
