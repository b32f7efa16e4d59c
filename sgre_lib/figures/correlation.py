"""Figures of what patches and labels attend to: shares of attention, and correlation beside label co-occurrence."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .dataset import conditional_probability, fill_matrix
from .style import percent, styled_figure, with_alt


def draw_shares(labels: Sequence[str], shares: np.ndarray, what: str) -> Figure:
    """Bars of shares (L,) that sum to 1, highest first, with the even share dotted."""
    order = np.argsort(-shares, kind="stable")
    with styled_figure(height=max(2.0, 0.15 * len(labels) + 0.7), width=5) as (figure, (ax,)):
        ax.barh([labels[i] for i in order], 100 * shares[order])
        ax.axvline(100 / len(labels), linestyle=":", color="black", linewidth=1)
        ax.invert_yaxis()
        ax.tick_params(axis="y", labelsize=8 if len(labels) <= 40 else 5)
        ax.set_xlabel(f"{what}, % (dotted: even)")
    top = ", ".join(f"{labels[i]} {percent(float(shares[i]))}" for i in order[:3])
    return with_alt(figure, f"Shares of {what} in percent: {top}, ...; an even share is {percent(1 / len(labels))}.")


def draw_correlation(labels: Sequence[str], correlation: np.ndarray, targets: np.ndarray) -> Figure:
    """What patches attend to when a label is there, beside the label co-occurrence that it may have learned.

    correlation: (L, L) of `heatmaps.maps.average_correlation`, a row for each label that is there. targets: (N, L) of the
    images that the co-occurrence is counted in. Both diagonals are left blank; each matrix has its own colour scale.
    """
    plain, relative = compare_with_cooccurrence(correlation, targets)
    learned = correlation.copy()
    np.fill_diagonal(learned, np.nan)
    longest = max(len(label) for label in labels)
    beside = len(labels) > 100 or (len(labels) <= 30 and longest <= 16)
    ranks, ranks_relative = (f"{value:.2f}" if np.isfinite(value) else "-" for value in (plain, relative))
    with styled_figure(*((1, 2) if beside else (2, 1)), height=4.9 if beside else 12.0) as (figure, (left, right)):
        fill_matrix(left, labels, learned, "correlation", horizontal=beside)
        fill_matrix(right, labels, conditional_probability(targets), "P(column | row)", horizontal=beside)
        left.set_title("learned: share of the correlation that the\ncolumn gets where the row is there")
        right.set_title(f"P(column | row): rank correlation {ranks},\n{ranks_relative} with column levels taken out")
        if beside:
            right.set_yticks([])
    alt = f"Learned patch-label correlation beside label co-occurrence, {len(labels)} labels: "
    said = f"their rank correlation off the diagonal is {ranks}, and {ranks_relative} with column levels taken out"
    alt += said if np.isfinite(plain) else "too few pairs of labels to compare them"
    if np.isfinite(learned).any():
        row, column = np.unravel_index(np.nanargmax(learned), learned.shape)
        alt += f"; the largest share is {labels[column]} given {labels[row]}, {percent(learned[row, column])} %"
    own = np.diag(correlation)
    if np.isfinite(own).any():
        mean, even = percent(float(np.nanmean(own))), percent(1 / len(labels))
        alt += f"; a label that is there gets {mean} % itself (even: {even} %)"
    return with_alt(figure, alt + ".")


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
    ranks = [pd.Series(values).rank().to_numpy() for values in (a, b)]
    if any(len(rank) < 2 or np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
