"""Matrices over labels, as the figures of datasets and of attention draw them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import WIDTH, styled_figure


def draw_matrix(labels: Sequence[str], matrix: np.ndarray, unit: str, title: str) -> Figure:
    """A figure of one matrix (L, L)."""
    side = float(np.clip(0.22 * len(labels) + 1.5, 3.5, WIDTH))
    with styled_figure(height=side, width=min(WIDTH, side + 1)) as (figure, (ax,)):
        fill_matrix(ax, labels, matrix, unit)
        ax.set_title(title)
    return figure


def fill_matrix(ax: Axes, labels: Sequence[str], matrix: np.ndarray, unit: str, *, horizontal: bool = False) -> None:
    """Draw a matrix (L, L) over labels into axes; NaN stays blank. Above 100 labels no name is written.

    horizontal: the colour bar lies below the matrix, where two of them stand side by side.
    """
    # Light is zero; one extreme pair must not wash out the rest.
    top = float(np.nanpercentile(matrix, 99)) if np.isfinite(matrix).any() else 1.0
    marked = labels if len(labels) <= 100 else False
    seaborn.heatmap(
        matrix,
        ax=ax,
        cmap="Blues",
        vmin=min(0.0, float(np.nanmin(matrix, initial=0.0))),
        vmax=top,
        mask=np.isnan(matrix),
        square=not horizontal,  # two squares and their bars in one row cannot be laid out tightly
        xticklabels=marked,
        yticklabels=marked,
        cbar_kws={
            "shrink": 0.7,
            "label": unit + ("\n" if horizontal else " ") + f"(colour ends at the 99th percentile, {top:.2f})",
            "location": "bottom" if horizontal else "right",
        },
    )
    ax.tick_params(length=0, labelsize=8 if len(labels) <= 30 else 5)
