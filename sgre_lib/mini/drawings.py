"""Reads the tables of drawings (objects.toml, clutter.toml, themes.toml) and follows their steps.

A drawing is a list of steps, done in order:

    "name = expression"                          sets a variable
    { disc = [x, y, radius], fill = colour }     puts a shape on the canvas: `shapes.py` and `scenery.py` say which
    { draw = [step, ...] }                       steps that belong together

A table may also say `when = condition`, or `for = "name ..."` and `in = values`: then it is done for each value, those
where the condition does not hold left out. Wherever a number or a colour is wanted, text is an expression in Python's
syntax: arithmetic, comparisons, lists, and calls of the functions that are named here. Nothing else is let through.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from ..base.files import read_toml
from . import chance, colours, shapes

Names = dict[str, Any]
"""What an expression may name: functions, colours and the variables set so far."""

Step = Callable[[Names], None]

CONSTANT: Names = {
    "__builtins__": {},
    **colours.PALETTE,
    **colours.FIXED,
    **colours.GROUPS,
    **{f.__name__: f for f in (max, min, range, round, sum, colours.darken, colours.lighten, shapes.polar)},
    "mix": colours.mix_colour,
    "arc": shapes.trace_arc,
    "star": shapes.trace_star,
    "acos": lambda x: math.degrees(math.acos(x)),
    "atan2": lambda y, x: math.degrees(math.atan2(y, x)),
}

BY_CHANCE: dict[str, Callable] = {  # these draw from the picture's generator
    "chance": chance.happens,
    "between": chance.pick_between,
    "count": chance.pick_count,
    "one": chance.pick_one,
    "kind_of": chance.pick_kind,
    "colour": colours.pick_colour,
    "body_colour": colours.pick_body,
}

UNIT = ("size", "turn", "flip", "aspect")
"""What a drawing may say of its unit square, as expressions whose chances are drawn in this order."""

# fmt: off
ALLOWED = (
    ast.Expression, ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Starred, ast.ListComp, ast.comprehension,
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword,
    ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)
# fmt: on


class Drawing(NamedTuple):
    """One entry of a table: its steps, and what else it says."""

    steps: Step
    more: dict[str, Any]


def read_drawings(table: str) -> dict[str, Drawing]:
    """The drawings of a table (its file's name without the ending), by their names."""
    entries = read_toml(Path(__file__).with_name(f"{table}.toml"))
    for entry in entries.values():
        entry |= {name: compile_expression(entry[name]) for name in UNIT if name in entry}
    return {name: Drawing(compile_steps(entry.pop("draw")), entry) for name, entry in entries.items()}


def name_values(rng: np.random.Generator, **values: Any) -> Names:
    """What the expressions of one drawing may name, `values` among it."""
    return {**CONSTANT, **{name: functools.partial(pick, rng) for name, pick in BY_CHANCE.items()}, **values}


def evaluate(code: CodeType, names: Names) -> Any:
    return eval(code, names)  # only what `compile_expression` let through, without builtins


def compile_expression(value: Any) -> CodeType:
    """A table's value, checked and ready for `evaluate`; ValueError where it is more than arithmetic and calls."""
    text = _write(value)
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED) or getattr(node, "id", "").startswith("_"):
            raise ValueError(f"a drawing may not say {ast.unparse(node)}: {text}")
    return compile(tree, text, "eval")


def _write(value: Any) -> str:
    """A table's value as the text of an expression."""
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    return value if isinstance(value, str) else repr(value)


def compile_steps(steps: list[str | dict[str, Any]]) -> Step:
    compiled = [_compile_assignment(step) if isinstance(step, str) else _compile_table(dict(step)) for step in steps]

    def follow(names: Names) -> None:
        for step in compiled:
            step(names)

    return follow


def _compile_assignment(text: str) -> Step:
    name, expression = text.split(" = ", 1)
    code = compile_expression(expression)
    return lambda names: names.update({name: evaluate(code, names)})


def _compile_table(table: dict[str, Any]) -> Step:
    variables, values = table.pop("for", "").split(), compile_expression(table.pop("in", [0]))
    condition = compile_expression(table.pop("when", True))
    if "draw" in table:
        body = compile_steps(table["draw"])
    else:
        (shape, geometry), *style = table.items()
        given = [*map(_write, geometry), *(f"{name}={_write(value)}" for name, value in style)]
        body = functools.partial(evaluate, compile_expression(f"{shape}({', '.join(given)})"))

    def follow(names: Names) -> None:
        for value in evaluate(values, names):
            names.update(zip(variables, value if len(variables) > 1 else [value], strict=False))
            if evaluate(condition, names):
                body(names)

    return follow
