"""Figures of maps over a photo's patches: alignment maps, with the boxes they are measured by, failures, positions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from .style import WIDTH, picture_grid, styled_figure, with_alt


def draw_heatmap(
    photo: Image.Image,
    maps: np.ndarray,
    labels: Sequence[str],
    scores: Sequence[float],
    present: Sequence[bool] | None,
    *,
    threshold: float = 0.5,
    title: str = "",
    columns: int = 5,
) -> Figure:
    """The photo, and for each label its alignment map over the grey photo with score and truth in the title.

    maps: (labels, H, W), each summing to 1. present: the truth of each label, or None where it is not known; the title
    then has the score alone. Colours say how many times the even share 1 / (H W) a patch gets, on one
    scale for the whole figure; what gets little stays grey.
    """
    outcomes = [""] * len(labels)
    if present is not None:
        outcomes = [judge(score, truth, threshold) for score, truth in zip(scores, present, strict=True)]
    columns = min(columns, len(labels) + 1)
    rows = -(-(len(labels) + 1) // columns)
    width = min(WIDTH, 1.9 * columns + 0.6)
    height = rows * ((width - 0.6) / columns * photo.height / photo.width + 0.35) + (0.3 if title else 0.1)
    with styled_figure(rows, columns, height=height, width=width) as (figure, axes):
        for ax in axes:
            ax.set_axis_off()
        axes[0].imshow(photo)
        axes[0].set_title("photo")
        shares = np.asarray(maps, dtype=np.float64) * maps.shape[1] * maps.shape[2]
        top = max(2.0, float(shares.max(initial=0.0)))
        grey = photo.convert("L")
        for ax, share, label, score, outcome in zip(axes[1:], shares, labels, scores, outcomes, strict=False):
            ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
            smooth = Image.fromarray(share.astype(np.float32)).resize(photo.size, Image.Resampling.BICUBIC)
            smooth = np.asarray(smooth).clip(0, top)
            shown = ax.imshow(smooth, cmap="magma", vmin=0, vmax=top, alpha=0.85 * np.sqrt(smooth / top))
            ax.set_title(f"{label} {score:.2f}\n{outcome}".rstrip(), fontsize=8)
        if len(labels):
            bar = figure.colorbar(shown, ax=axes, shrink=0.8, aspect=25, pad=0.02)
            bar.set_label("times even", fontsize=8)
            bar.solids.set_alpha(1)
        if title:
            # matplotlib reads what stands between dollar signs as a formula; a file's name may have some.
            figure.suptitle(title.replace("$", r"\$"), fontsize=9)
    said = "; ".join(
        f"{label} scores {score:.2f}{f' ({outcome})' if outcome else ''}, most attention {describe_place(one)}"
        for label, score, outcome, one in zip(labels, scores, outcomes, maps, strict=True)
    )
    return with_alt(figure, f"Alignment maps{' of ' + title if title else ''}: {said or 'no label'}.")


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
    with picture_grid(len(photos), columns, height=2.15, width=1.8) as (figure, axes):
        for ax, photo, one_map, of_label, caption in zip(axes, photos, maps, boxes, captions, strict=False):
            height, width = one_map.shape
            extent, part = (0, photo.width, photo.height, 0), one_map / one_map.max()
            ax.imshow(photo.convert("L"), cmap="gray", vmin=0, vmax=255, extent=extent)
            over = {"cmap": "magma", "vmin": 0, "vmax": 1, "interpolation": "nearest", "extent": extent}
            ax.imshow(part, alpha=0.75 * np.sqrt(part), **over)
            for x0, y0, x1, y1 in of_label * [photo.width, photo.height, photo.width, photo.height]:
                # Dark under light, so that the outline shows on any ground.
                for colour, thickness in (("black", 3.0), ("white", 1.2)):
                    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=thickness))
            row, column = divmod(int(one_map.argmax()), width)
            peak = ((column + 0.5) * photo.width / width, (row + 0.5) * photo.height / height)
            for colour, thickness in (("black", 3.5), ("white", 1.5)):
                ax.plot(*peak, "x", color=colour, markersize=7, markeredgewidth=thickness)
            ax.set_title(caption.replace("$", r"\$"), fontsize=8)
    said = "; ".join(f"{caption}, peak {describe_place(one)}" for caption, one in zip(captions, maps, strict=True))
    return with_alt(figure, f"Maps with the label's boxes: {said}.".replace("\n", ", "))


def draw_failures(
    photos: Sequence[Image.Image], labels: Sequence[str], scores: Sequence[float], outcomes: Sequence[str]
) -> Figure:
    """Photos in a grid, each with the label it fails at, the label's score and what became of it (`judge`) below."""
    with picture_grid(len(photos), 4, height=2.1, width=1.8) as (figure, axes):
        for ax, photo, label, score, outcome in zip(axes, photos, labels, scores, outcomes, strict=False):
            ax.imshow(photo)
            ax.set_xlabel(f"{label} {score:.2f}\n{outcome}".replace("$", r"\$"), fontsize=8)
    said = "; ".join(
        f"{outcome} {label} at {score:.2f}" for label, score, outcome in zip(labels, scores, outcomes, strict=True)
    )
    return with_alt(figure, f"{len(photos)} failures, chosen by rule: {said or 'none'}.")


def draw_position_map(position_map: np.ndarray) -> Figure:
    """Four channels of a sine position map (D, H, W): two that encode y, two that encode x."""
    half = len(position_map) // 2
    channels = [0, min(6, half - 1), half, half + min(6, half - 1)]
    with styled_figure(1, len(channels), height=1.9) as (figure, axes):
        for ax, channel in zip(axes, channels, strict=True):
            image = ax.imshow(position_map[channel], cmap="PuOr", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[], title=f"channel {channel} ({'y' if channel < half else 'x'})")
        figure.colorbar(image, ax=axes, shrink=0.8)
    alt = (
        f"Four of {len(position_map)} channels of the position map: the first half of the channels varies from top to "
    )
    return with_alt(figure, alt + "bottom, the second from left to right, later channels more slowly.")


def judge(score: float, present: bool, threshold: float) -> str:
    """What became of a label in an image: hit, missed, false alarm, or rightly absent."""
    outcomes = ("hit", "missed") if present else ("false alarm", "rightly absent")
    return outcomes[0 if score >= threshold else 1]


def describe_place(one_map: np.ndarray) -> str:
    """Where in the picture a map (H, W) has its peak, in words."""
    height, width = one_map.shape
    y, x = divmod(int(np.argmax(one_map)), width)
    row = ("top", "middle", "bottom")[min(2, 3 * y // height)]
    column = ("left", "centre", "right")[min(2, 3 * x // width)]
    return "in the centre" if (row, column) == ("middle", "centre") else f"at the {row} {column}"
