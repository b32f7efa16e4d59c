"""Reads the tables of drawings (objects.toml, clutter.toml, themes.toml) and follows their steps.

A drawing is a list of steps, done in order:

    "name = expression"                          sets a variable
    { disc = [x, y, radius], fill = colour }     puts a shape on the canvas: `shapes.py` and `scenery.py` say which
    { draw = [step, ...] }                       steps that belong together

A table may also say `when = condition`, or `for = "name ..."` and `in = values`: then it is done for each value, those
where the condition does not hold left out. Wherever a number or a colour is wanted, text is an expression in Python's
syntax: arithmetic, comparisons, lists, and calls of the functions that are named here. Nothing else is let through.
A drawing is checked and compiled once, when its table is read.
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
    ast.Module, ast.Expression, ast.Assign, ast.For, ast.If, ast.Expr,  # what steps are made of
    ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Starred, ast.ListComp, ast.comprehension, ast.Call, ast.keyword,
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp,
    ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)
# fmt: on


class Drawing(NamedTuple):
    """One entry of a table: its steps, ready for `follow`, and what else it says."""

    steps: CodeType
    more: dict[str, Any]


def read_drawings(table: str) -> dict[str, Drawing]:
    """The drawings of a table (its file's name without the ending); what its head says holds where one is silent."""
    content = read_toml(Path(__file__).with_name(f"{table}.toml"))
    head = {name: value for name, value in content.items() if not isinstance(value, dict)}
    drawings = {}
    for name in [name for name in content if name not in head]:
        more = head | content[name]
        more |= {key: compile_expression(more[key]) for key in UNIT if key in more}
        drawings[name] = Drawing(compile_steps(more.pop("draw")), more)
    return drawings


def name_values(rng: np.random.Generator, **values: Any) -> Names:
    """What the expressions of one drawing may name, `values` among it."""
    return {**CONSTANT, **{name: functools.partial(pick, rng) for name, pick in BY_CHANCE.items()}, **values}


def follow(steps: CodeType, names: Names) -> None:
    exec(steps, names)  # only what `_check` let through, without builtins


def evaluate(expression: CodeType, names: Names) -> Any:
    return eval(expression, names)  # as above


def compile_steps(steps: list[str | dict[str, Any]]) -> CodeType:
    """The steps of a drawing, checked; ValueError where one is more than a table may say."""
    return _check("\n".join(line for step in steps for line in _write_step(step)), "exec")


def compile_expression(value: Any) -> CodeType:
    """A number or the text of an expression, checked like steps."""
    return _check(_write(value), "eval")


def _check(text: str, mode: str) -> CodeType:
    tree = ast.parse(text, mode=mode)
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED) or getattr(node, "id", "").startswith("_"):
            raise ValueError(f"a drawing may not say {ast.unparse(node)}")
    return compile(tree, "<drawing>", mode)


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
