"""How well one heatmap finds the boxes of its label: pointing, share, chance and ceiling."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Localisation(NamedTuple):
    """How well one map finds its label's boxes, each in 0..1."""

    pointing: float
    pointing_chance: float
    pointing_ceiling: float
    share: float
    share_chance: float
    share_ceiling: float


class Pair(NamedTuple):
    """A test image and a label that it has, as indices, and how well the label's map finds its boxes."""

    image: int
    label: int
    found: Localisation


def measure_map(weights: np.ndarray, boxes: np.ndarray) -> Localisation:
    """Pointing and share of a map (H, W) over the whole photo, for boxes (n, 4) in fractions x0, y0, x1, y1.

    weights: not negative; rescaled to sum to 1. A centre on a box's edge is inside.
    """
    height, width = weights.shape
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    in_columns = (boxes[:, :1] <= x) & (x <= boxes[:, 2:3])  # (n, W)
    in_rows = (boxes[:, 1:2] <= y) & (y <= boxes[:, 3:4])  # (n, H)
    centres = (in_rows[:, :, None] & in_columns[:, None, :]).any(0)
    covered = cover_patches(boxes, (height, width))
    weights = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    return Localisation(
        pointing=float(centres.flat[weights.argmax()]),
        pointing_chance=float(centres.mean()),
        pointing_ceiling=float(centres.any()),
        share=float((weights * covered).sum()),
        share_chance=float(covered.mean()),
        share_ceiling=float(covered.max()),
    )


def cover_patches(boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The fraction of each patch's area that the union of boxes (n, 4) covers, exactly, (H, W) in 0..1."""
    height, width = grid
    columns, rows = np.arange(width) / width, np.arange(height) / height
    # The edges of patches and boxes cut the photo into rectangles that are inside or outside as a whole.
    x = np.unique(np.concatenate([columns, [1.0], boxes[:, 0], boxes[:, 2]]))
    y = np.unique(np.concatenate([rows, [1.0], boxes[:, 1], boxes[:, 3]]))
    inside = np.zeros((len(y) - 1, len(x) - 1))
    lefts, rights = np.searchsorted(x, boxes[:, [0, 2]].T)
    tops, bottoms = np.searchsorted(y, boxes[:, [1, 3]].T)
    for left, right, top, bottom in zip(lefts, rights, tops, bottoms, strict=True):
        inside[top:bottom, left:right] = 1
    areas = inside * np.diff(y)[:, None] * np.diff(x)
    areas = np.add.reduceat(areas, np.searchsorted(y, rows), axis=0)
    return np.add.reduceat(areas, np.searchsorted(x, columns), axis=1) * (height * width)


def summarise_pairs(pairs: Sequence[Pair], labels: Sequence[str]) -> dict:
    """Averages of pairs: `mean_over_labels`, `mean_over_pairs`, `labels` (those with pairs), `labels_without_boxes`."""
    values = np.array([pair.found for pair in pairs])
    of_label = np.array([pair.label for pair in pairs])
    per_label = {
        labels[index]: {"pairs": int((of_label == index).sum())} | _average(values[of_label == index])
        for index in np.unique(of_label)
    }
    votes = np.array([[row[name] for name in Localisation._fields] for row in per_label.values()])
    return {
        "mean_over_labels": _average(votes),
        "mean_over_pairs": _average(values),
        "labels": per_label,
        "labels_without_boxes": [label for label in labels if label not in per_label],
    }


def _average(values: np.ndarray) -> dict[str, float]:
    return Localisation(*values.mean(0).tolist())._asdict()


def gain_over_chance(row: dict) -> float:
    """Pointing above chance, of a label or a mean."""
    return row["pointing"] - row["pointing_chance"]
