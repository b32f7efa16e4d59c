"""Figures of measured heatmaps: label by label against chance, and a map with the boxes that it is measured by."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from .attention import describe_place
from .results import MARKERS, MOST_LABELS
from .style import WIDTH, figure_style, make_figure, percent, with_alt


def draw_localisation(
    labels: Sequence[str], found: Mapping[str, np.ndarray], chance: np.ndarray, what: str = "pointing"
) -> Figure:
    """How well each label's maps find its boxes: a mark a model, a bar at chance; labels sorted by the first model.

    found: model -> (L,) in 0..1; chance: (L,). NaN where a label has no boxes. what: the measure, for the axis. Of more
    than 100 labels 60 are shown: the 30 where the first model gains most over chance, and the 30 where it gains least.
    """
    every = {name: np.asarray(values, dtype=float) for name, values in found.items()}
    chance = np.asarray(chance, dtype=float)
    first_name, first = next(iter(every.items()))
    measured = int(np.isfinite(first).sum())
    order = np.argsort(-first, kind="stable")[:measured]  # NaN comes last
    if measured > MOST_LABELS:
        by_gain = np.argsort(chance - first, kind="stable")[:measured].tolist()
        ends = {*by_gain[:30], *by_gain[-30:]}
        order = np.array([i for i in order if i in ends], dtype=int)
    below = [labels[i] for i in np.flatnonzero(first < chance)]
    finding = f"{first_name} is above chance for {measured - len(below)} of {measured} labels"
    if below:
        finding += f", below for {', '.join(below[:4])}{', ...' if len(below) > 4 else ''}"
    with figure_style():
        figure, axes = make_figure(height=max(2.4, 0.19 * len(order) + 1.2))
        ax, rows = axes[0, 0], range(len(order))
        for number, (name, values) in enumerate(every.items()):
            ax.plot(
                100 * values[order], rows, MARKERS[number % len(MARKERS)], markersize=5,
                label=f"{name} (mean {percent(float(np.nanmean(values)))})",
            )  # fmt: skip
        ax.plot(
            100 * chance[order], rows, "|", color="black", markersize=8, markeredgewidth=1.5,
            label=f"chance (mean {percent(float(np.nanmean(chance)))})",
        )  # fmt: skip
        stacked = 100 * np.stack([*every.values(), chance])[:, order]
        ax.hlines(rows, np.nanmin(stacked, axis=0), np.nanmax(stacked, axis=0), color="0.85", zorder=0)
        ax.set_yticks(rows, [labels[i] for i in order], fontsize=8 if len(order) <= 60 else 6)
        ax.invert_yaxis()
        ax.margins(y=min(0.05, 0.6 / max(1, len(order))))
        ax.set(xlabel=f"{what}, %", xlim=(-2, 102))
        ax.grid(axis="x", color="0.92")
        ax.set_title(textwrap.fill(finding, 100))
        figure.legend(loc="outside upper center", ncols=len(every) + 1, frameon=False)
    means = ", ".join(
        f"{name} {percent(float(np.nanmean(values)))}" for name, values in [*every.items(), ("chance", chance)]
    )
    alt = f"{what.capitalize()} of {measured} labels in percent: on average {means}. {finding}."
    return with_alt(figure, alt)


def draw_boxed_maps(
    photos: Sequence[Image.Image],
    maps: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int = 4,
) -> Figure:
    """Maps as their patches, over the grey photo, with the label's boxes outlined and a cross at the map's peak.

    maps: (H, W) each, any scale. boxes: (n, 4) each, in fractions x0, y0, x1, y1. Each panel has its own colour scale,
    from nothing to its peak. The patches are shown as they are measured: not smoothed.
    """
    with figure_style():
        columns = min(columns, len(photos))
        rows = -(-len(photos) // columns)
        figure, axes = make_figure(rows, columns, height=2.15 * rows, width=min(WIDTH, 1.8 * columns))
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, photo, one_map, of_label, caption in zip(axes.flat, photos, maps, boxes, captions, strict=False):
            height, width = one_map.shape
            ax.imshow(photo.convert("L"), cmap="gray", vmin=0, vmax=255, extent=(0, photo.width, photo.height, 0))
            part = one_map / one_map.max()
            ax.imshow(
                part, cmap="magma", vmin=0, vmax=1, alpha=0.75 * np.sqrt(part), interpolation="nearest",
                extent=(0, photo.width, photo.height, 0),
            )  # fmt: skip
            for x0, y0, x1, y1 in of_label * [photo.width, photo.height, photo.width, photo.height]:
                # Dark under light, so that the outline shows on any ground.
                for colour, thickness in (("black", 3.0), ("white", 1.2)):
                    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=thickness))
            row, column = divmod(int(one_map.argmax()), width)
            peak = ((column + 0.5) * photo.width / width, (row + 0.5) * photo.height / height)
            for colour, thickness in (("black", 3.5), ("white", 1.5)):
                ax.plot(*peak, "x", color=colour, markersize=7, markeredgewidth=thickness)
            ax.set_title(caption.replace("$", r"\$"), fontsize=8)
    said = "; ".join(
        f"{caption}, peak {describe_place(one)}".replace("\n", ", ")
        for caption, one in zip(captions, maps, strict=True)
    )
    return with_alt(figure, f"Maps with the label's boxes: {said}.")
