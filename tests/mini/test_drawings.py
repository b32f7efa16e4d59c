"""Protects the language of the drawing tables: what a step may be, the order in which it is done, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sgre_lib.mini.drawings import compile_steps, follow


def draw(*steps, seed: int = 0, **values) -> list[tuple]:
    """The shapes that steps put on a canvas, as (geometry, style)."""
    found: list[tuple] = []
    values["disc"] = lambda *geometry, **style: found.append((geometry, style))
    follow(compile_steps(list(steps)), np.random.default_rng(seed), **values)
    return found


def test_variables_loops_and_conditions():
    found = draw(
        "r = 2 * size",
        {"for": "x y", "in": [[1, 2], [3, "size"]], "when": "x > 1", "disc": ["x", "y + 1", "r"], "fill": "INK"},
        {"for": "i", "in": "range(3)", "draw": [{"when": "i == 2", "disc": [0, "*polar(i, 0, 1, 0)"]}]},
        size=5,
    )
    assert found == [((3, 6, 10), {"fill": (46, 44, 56)}), ((0, 3.0, 0.0), {})]


def test_chance_is_drawn_in_the_order_of_the_steps():
    step = {"for": "i", "in": "range(2)", "disc": ["between(0, 1)", "between(0, 1)"], "fill": "between(0, 1)"}
    stream = np.random.default_rng(3).random(6).tolist()
    drawn = [(*geometry, style["fill"]) for geometry, style in draw(step, seed=3)]
    assert [*drawn[0], *drawn[1]] == stream


def test_what_is_not_chosen_draws_nothing():
    steps = [
        {"when": "1 > 2", "disc": ["between(0, 1)"]},
        "x = between(0, 1) if 1 > 2 else 0",
        {"disc": ["between(0, 1)"]},
    ]
    assert draw(*steps, seed=4)[0][0] == (np.random.default_rng(4).random(),)


def test_angles_are_degrees():
    ((geometry, _),) = draw({"disc": ["acos(0)", "*polar(1, 1, 2, 90)"]})
    assert geometry == pytest.approx((90, 1, 3))


@pytest.mark.parametrize(
    "text", ["().__class__", "__builtins__", "[1][0]", "lambda: 1", "(x := 1)", "f'{1}'", "{1: 2}", "x.y", "await x"]
)
def test_more_than_arithmetic_is_refused(text):
    with pytest.raises((ValueError, SyntaxError)):
        compile_steps([{"disc": [text]}])


@pytest.mark.parametrize(
    "step", ["import os", "x = 1; del x", "def f(): 1", "while 1: 2", {"for": "x", "in": [1], "disc": ["x.y"]}]
)
def test_other_statements_are_refused(step):
    with pytest.raises((ValueError, SyntaxError)):
        compile_steps([step])


def test_python_itself_cannot_be_called():
    for text in ("open('x')", "eval('1')", "print(1)"):
        with pytest.raises(NameError):
            draw({"disc": [text]})
