"""Figures of a dataset: its photos, its labels, and what they have to do with each other."""

from collections.abc import Sequence

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from .style import WIDTH, percent, picture_grid, styled_figure, with_alt


def draw_photos(photos: Sequence[Image.Image], captions: Sequence[str]) -> Figure:
    """A contact sheet of photos, each under its caption."""
    with picture_grid(max(4, len(photos)), 4, height=2.0, width=WIDTH) as (figure, axes):
        for ax, photo, caption in zip(axes, photos, captions, strict=False):
            ax.imshow(photo)
            ax.set_title(caption, fontsize=8, wrap=True)
    return with_alt(figure, f"{len(photos)} photos with their labels: " + "; ".join(captions))


def draw_label_counts(labels: Sequence[str], targets: np.ndarray) -> Figure:
    """Images of each label, most frequent first. targets: (N, L)."""
    counts = targets.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    with styled_figure(height=max(2.2, 0.17 * len(labels) + 0.7)) as (figure, (ax,)):
        ax.barh([labels[i] for i in order], counts[order])
        ax.invert_yaxis()
        ax.set_xlabel(f"images with the label, of {len(targets)}")
        ax.set_title(f"{labels[order[0]]} is the most frequent label, {labels[order[-1]]} the rarest")
        ax.margins(y=0.01)
    alt = f"Bar chart of label counts: {labels[order[0]]} {counts[order[0]]}, ..., {labels[order[-1]]} {counts[order[-1]]}"
    return with_alt(figure, f"{alt} of {len(targets)} images.")


def conditional_probability(targets: np.ndarray) -> np.ndarray:
    """P(column label | row label), (L, L); NaN on the diagonal and in the row of a label that never occurs."""
    together = targets.astype(np.float64).T @ targets
    with np.errstate(invalid="ignore", divide="ignore"):
        result = together / np.diag(together)[:, None]
    np.fill_diagonal(result, np.nan)
    return result


def draw_cooccurrence(labels: Sequence[str], targets: np.ndarray) -> Figure:
    """Matrix of P(column label | row label); the diagonal is left blank. targets: (N, L)."""
    matrix = conditional_probability(targets)
    figure = draw_matrix(labels, matrix, "P(column | row)", "Which labels come together")
    alt = "Matrix of label co-occurrence"
    if np.isfinite(matrix).any():
        row, column = np.unravel_index(np.nanargmax(matrix), matrix.shape)
        alt += f"; the strongest is {labels[column]} given {labels[row]}, {percent(matrix[row, column])} %"
    return with_alt(figure, f"{alt}.")


def draw_similarity(labels: Sequence[str], embeddings: np.ndarray) -> Figure:
    """Matrix of cosine similarities of label embeddings (L, T); the diagonal is left blank."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    matrix = unit @ unit.T
    np.fill_diagonal(matrix, np.nan)
    figure = draw_matrix(labels, matrix, "cosine similarity", "What the label names have to do with each other")
    row, column = np.unravel_index(np.nanargmax(matrix), matrix.shape)
    alt = f"Matrix of label similarities in the text model; the closest pair is {labels[row]} and {labels[column]}"
    return with_alt(figure, f"{alt} ({matrix[row, column]:.2f}).")


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
