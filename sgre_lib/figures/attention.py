"""Figures of what a model attends to: position map, shares, correlation, heatmaps, and where it fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .dataset import conditional_probability
from .matrix import fill_matrix
from .style import WIDTH, figure_style, make_figure, percent, with_alt


def draw_position_map(position_map: np.ndarray) -> Figure:
    """Four channels of a sine position map (D, H, W): two that encode y, two that encode x."""
    half = len(position_map) // 2
    channels = [0, min(6, half - 1), half, half + min(6, half - 1)]
    with figure_style():
        figure, axes = make_figure(1, len(channels), height=1.9)
        for ax, channel in zip(axes.flat, channels, strict=True):
            image = ax.imshow(position_map[channel], cmap="PuOr", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"channel {channel} ({'y' if channel < half else 'x'})")
        figure.colorbar(image, ax=axes, shrink=0.8)
    return with_alt(
        figure,
        f"Four of {len(position_map)} channels of the position map: the first half of the channels varies from top to "
        "bottom, the second from left to right, later channels more slowly.",
    )


def draw_shares(labels: Sequence[str], shares: np.ndarray, what: str) -> Figure:
    """Bars of shares (L,) that sum to 1, highest first, with the even share dotted."""
    order = np.argsort(-shares, kind="stable")
    with figure_style():
        figure, axes = make_figure(height=max(2.0, 0.15 * len(labels) + 0.7), width=5)
        ax = axes[0, 0]
        ax.barh([labels[i] for i in order], 100 * shares[order])
        ax.axvline(100 / len(labels), linestyle=":", color="black", linewidth=1)
        ax.invert_yaxis()
        ax.tick_params(axis="y", labelsize=8 if len(labels) <= 40 else 5)
        ax.set_xlabel(f"{what}, % (dotted: even)")
    top = ", ".join(f"{labels[i]} {percent(float(shares[i]))}" for i in order[:3])
    return with_alt(figure, f"Shares of {what} in percent: {top}, ...; an even share is {percent(1 / len(labels))}.")


def compare_with_cooccurrence(correlation: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Rank correlations of average patch-label correlation (L, L) and P(column | row), off the diagonal.

    The first is of the matrices as they are, which two columns that are both frequent already raise. The second is of
    what is left when each column is divided by its mean: which labels come together more than their frequency says.
    NaN where there are no two pairs to rank. targets: (N, L).
    """
    matrices = [correlation.copy(), conditional_probability(targets)]
    blank = np.eye(len(correlation), dtype=bool) | ~np.isfinite(matrices[0]) | ~np.isfinite(matrices[1])
    for matrix in matrices:
        matrix[blank] = np.nan
    plain = _rank_correlation(*(matrix[~blank] for matrix in matrices))
    counts = (~blank).sum(axis=0)
    means = [np.nansum(matrix, axis=0) / np.maximum(counts, 1) for matrix in matrices]
    relative = [matrix / np.where(mean > 0, mean, 1) for matrix, mean in zip(matrices, means, strict=True)]
    return plain, _rank_correlation(*(matrix[~blank] for matrix in relative))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; ties share their mean rank. NaN where either is constant."""
    ranks = []
    for values in (a, b):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    if any(len(rank) < 2 or np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def draw_correlation(labels: Sequence[str], correlation: np.ndarray, targets: np.ndarray) -> Figure:
    """What patches attend to when a label is there, beside the label co-occurrence that it may have learned.

    correlation: (L, L) of `heatmaps.average_correlation`, a row for each label that is there. targets: (N, L) of the
    images that the co-occurrence is counted in. Both diagonals are left blank; each matrix has its own colour scale.
    """
    plain, relative = compare_with_cooccurrence(correlation, targets)
    learned = correlation.copy()
    np.fill_diagonal(learned, np.nan)
    longest = max(len(label) for label in labels)
    beside = len(labels) > 100 or (len(labels) <= 30 and longest <= 16)
    ranks, ranks_relative = (f"{value:.2f}" if np.isfinite(value) else "-" for value in (plain, relative))
    with figure_style():
        rows, columns = (1, 2) if beside else (2, 1)
        figure, axes = make_figure(rows, columns, height=4.9 if beside else 12.0)
        left, right = axes.flat
        fill_matrix(left, labels, learned, "correlation", horizontal=beside)
        fill_matrix(right, labels, conditional_probability(targets), "P(column | row)", horizontal=beside)
        left.set_title("learned: share of the correlation that the\ncolumn gets where the row is there")
        right.set_title(f"P(column | row): rank correlation {ranks},\n{ranks_relative} with column levels taken out")
        if beside:
            right.set_yticks([])
    alt = f"Learned patch-label correlation beside label co-occurrence, {len(labels)} labels: "
    if np.isfinite(plain):
        alt += f"their rank correlation off the diagonal is {ranks}, and {ranks_relative} with column levels taken out"
    else:
        alt += "too few pairs of labels to compare them"
    if np.isfinite(learned).any():
        row, column = np.unravel_index(np.nanargmax(learned), learned.shape)
        alt += f"; the largest share is {labels[column]} given {labels[row]}, {percent(learned[row, column])} %"
    own = np.diag(correlation)
    if np.isfinite(own).any():
        alt += f"; a label that is there gets {percent(float(np.nanmean(own)))} % itself"
        alt += f" (even: {percent(1 / len(labels))} %)"
    return with_alt(figure, alt + ".")


def draw_failures(
    photos: Sequence[Image.Image],
    labels: Sequence[str],
    scores: Sequence[float],
    outcomes: Sequence[str],
    *,
    columns: int = 4,
) -> Figure:
    """Photos in a grid, each with the label it fails at, the label's score and what became of it (`judge`) below."""
    with figure_style():
        columns = max(1, min(columns, len(photos)))
        rows = max(1, -(-len(photos) // columns))
        figure, axes = make_figure(rows, columns, height=2.1 * rows, width=min(WIDTH, 1.8 * columns))
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, photo, label, score, outcome in zip(axes.flat, photos, labels, scores, outcomes, strict=False):
            ax.imshow(photo)
            ax.set_xlabel(f"{label} {score:.2f}\n{outcome}".replace("$", r"\$"), fontsize=8)
    said = "; ".join(
        f"{outcome} {label} at {score:.2f}" for label, score, outcome in zip(labels, scores, outcomes, strict=True)
    )
    return with_alt(figure, f"{len(photos)} failures, chosen by rule: {said or 'none'}.")


def judge(score: float, present: bool, threshold: float) -> str:
    """What became of a label in an image: hit, missed, false alarm, or rightly absent."""
    if present:
        return "hit" if score >= threshold else "missed"
    return "false alarm" if score >= threshold else "rightly absent"


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
    with figure_style():
        panels = len(labels) + 1
        columns = min(columns, panels)
        rows = -(-panels // columns)
        width = min(WIDTH, 1.9 * columns + 0.6)
        panel = (width - 0.6) / columns * photo.height / photo.width
        figure, axes = make_figure(rows, columns, height=rows * (panel + 0.35) + (0.3 if title else 0.1), width=width)
        for ax in axes.flat:
            ax.set_axis_off()
        axes.flat[0].imshow(photo)
        axes.flat[0].set_title("photo")
        shares = np.asarray(maps, dtype=np.float64) * maps.shape[1] * maps.shape[2]
        top = max(2.0, float(shares.max(initial=0.0)))
        grey = photo.convert("L")
        shown = None
        for ax, share, label, score, outcome in zip(axes.flat[1:], shares, labels, scores, outcomes, strict=False):
            ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
            smooth = np.asarray(
                Image.fromarray(share.astype(np.float32)).resize(photo.size, Image.Resampling.BICUBIC)
            ).clip(0, top)
            shown = ax.imshow(smooth, cmap="magma", vmin=0, vmax=top, alpha=0.85 * np.sqrt(smooth / top))
            ax.set_title(f"{label} {score:.2f}\n{outcome}".rstrip(), fontsize=8)
        if shown is not None:
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


def describe_place(one_map: np.ndarray) -> str:
    """Where in the picture a map (H, W) has its peak, in words."""
    height, width = one_map.shape
    y, x = divmod(int(np.argmax(one_map)), width)
    row = ("top", "middle", "bottom")[min(2, 3 * y // height)]
    column = ("left", "centre", "right")[min(2, 3 * x // width)]
    return "in the centre" if (row, column) == ("middle", "centre") else f"at the {row} {column}"
