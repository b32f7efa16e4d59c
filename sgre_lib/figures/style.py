"""The one style of every figure, its alt text, and how it is saved."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from ..base.files import open_atomic

WIDTH = 7.0
"""Inches; a page's text width."""

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 10,
    "figure.dpi": 100,
}


@contextlib.contextmanager
def styled_figure(
    rows: int = 1, columns: int = 1, *, height: float, width: float = WIDTH, **options
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure, inches wide and high, and its axes row by row, to be drawn in the one style inside the block."""
    with matplotlib.rc_context(style.library.get("petroff10", {}) | STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


@contextlib.contextmanager
def picture_grid(count: int, columns: int, *, height: float, width: float) -> Iterator[tuple[Figure, np.ndarray]]:
    """`styled_figure` of at least `count` bare axes for pictures, a row `height` inches high, a column `width` wide."""
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    with styled_figure(rows, columns, height=height * rows, width=min(WIDTH, width * columns)) as (figure, axes):
        for ax in axes:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        yield figure, axes


def with_alt(figure: Figure, alt: str) -> Figure:
    """The figure with its alt text set."""
    figure.alt_text = alt
    return figure


def save_figure(figure: Figure, path: str | os.PathLike, *, dpi: int = 150) -> Path:
    """Write a figure as PNG in one step, its alt text inside as the PNG's Description, and return the path."""
    with open_atomic(path, "wb") as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Description": getattr(figure, "alt_text", "")})
    return Path(path)


def percent(value: float) -> str:
    """A fraction in percent as papers print it, one decimal; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"
