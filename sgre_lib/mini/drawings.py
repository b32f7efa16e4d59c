"""Reads the tables of drawings (objects.toml, clutter.toml, themes.toml) and follows their steps.

A drawing is a list of steps, done in order:

    "name = expression"                          sets a variable
    { disc = [x, y, radius], fill = colour }     puts a shape on the canvas: see `shapes.py` for which there are
    { draw = [step, ...] }                       steps that belong together

A table may also say `when = condition`, or `for = "name ..."` and `in = values`: then it is done for each value, those
where the condition does not hold left out. Wherever a number or a colour is wanted, text is an expression in Python's
syntax: arithmetic, comparisons, lists, and calls of the functions that are named here. Nothing else is let through.
"""

from __future__ import annotations

import ast
import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from . import chance, colours, shapes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Names = dict[str, Any]
"""What an expression may name: functions, colours and the variables set so far."""

Step = Callable[[Names], None]

FIXED: Names = {
    "__builtins__": {},
    **{f.__name__: f for f in (abs, len, max, min, range, round, sum, colours.darken, colours.lighten, shapes.polar)},
    **colours.PALETTE,
    **{name: getattr(colours, name) for name in ("ALL", "VIVID", "PALE", "DARK", "INK", "WHITE", "MIST", "DUSK")},
    "mix": colours.mix_colour,
    "arc": shapes.trace_arc,
    "star": shapes.trace_star,
    "acos": lambda x: math.degrees(math.acos(x)),
    "atan2": lambda y, x: math.degrees(math.atan2(y, x)),
}

BY_CHANCE: dict[str, Callable] = {
    "chance": chance.happens,
    "between": chance.pick_between,
    "count": chance.pick_count,
    "one": chance.pick_one,
    "kind_of": chance.pick_kind,
    "colour": colours.pick_colour,
    "body_colour": colours.pick_body,
}
"""Functions that draw from the picture's generator."""

ALLOWED = (
    *(ast.Expression, ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Starred, ast.ListComp, ast.comprehension),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def name_values(rng: np.random.Generator, **values: Any) -> Names:
    """What the expressions of one drawing may name, `values` among it."""
    return {**FIXED, **{name: functools.partial(pick, rng) for name, pick in BY_CHANCE.items()}, **values}


def evaluate(code: CodeType, names: Names) -> Any:
    return eval(code, names)  # only what `compile_expression` let through, without builtins


def compile_expression(value: Any) -> CodeType:
    """An expression of a table, checked and ready for `evaluate`; ValueError where it is more than arithmetic."""
    text = _write(value)
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        named = node.id if isinstance(node, ast.Name) else ""
        if not isinstance(node, ALLOWED) or named.startswith("_"):
            raise ValueError(f"a drawing may not say {ast.unparse(node)}: {text}")
    return compile(tree, text, "eval")


def _write(value: Any) -> str:
    """A table's value as the text of an expression."""
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    return value if isinstance(value, str) else repr(value)


def compile_steps(steps: list[str | dict[str, Any]]) -> Step:
    compiled = [_compile_assignment(step) if isinstance(step, str) else _compile_table(step) for step in steps]

    def follow(names: Names) -> None:
        for step in compiled:
            step(names)

    return follow


def _compile_assignment(text: str) -> Step:
    name, expression = text.split(" = ", 1)
    code = compile_expression(expression)
    return lambda names: names.update({name: evaluate(code, names)})


def _compile_table(table: dict[str, Any]) -> Step:
    table = dict(table)
    variables, values = table.pop("for", "").split(), compile_expression(table.pop("in", [0]))
    condition = compile_expression(table.pop("when", True))
    if "draw" in table:
        body = compile_steps(table["draw"])
    else:
        (shape, geometry), *style = table.items()
        given = [*map(_write, geometry), *(f"{name}={_write(value)}" for name, value in style)]
        call = compile_expression(f"{shape}({', '.join(given)})")
        body = functools.partial(evaluate, call)

    def follow(names: Names) -> None:
        for value in evaluate(values, names):
            names.update(zip(variables, value if len(variables) > 1 else [value], strict=False))
            if evaluate(condition, names):
                body(names)

    return follow


@dataclass(frozen=True)
class Drawing:
    """One entry of a table: its steps, the expressions that shape its unit square, and whatever else it says."""

    steps: Step
    unit: Mapping[str, CodeType]
    more: Mapping[str, Any]

    def start_canvas(self, size: float, names: Names) -> shapes.ObjectCanvas:
        """The canvas of an object or shape that is to be `size` pixels wide."""
        unit = {name: evaluate(code, names) for name, code in self.unit.items()}
        return shapes.ObjectCanvas(size * unit.pop("size"), **unit)


def read_drawings(name: str, **unit: str | float) -> dict[str, Drawing]:
    """The drawings of a table by name. unit: what their size, turn, flip and aspect are where they do not say it."""
    table = tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    drawings = {}
    for key, entry in table.items():
        steps = compile_steps(entry.pop("draw"))
        said = {"size": 1, "turn": 0, "flip": False, "aspect": 1, **unit}
        said |= {name: entry.pop(name) for name in tuple(said) if name in entry}
        drawings[key] = Drawing(steps, {name: compile_expression(value) for name, value in said.items()}, entry)
    return drawings
