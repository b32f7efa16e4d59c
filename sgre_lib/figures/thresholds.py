"""Figures of scores: precision over recall, F1 over the threshold, and calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import percent, styled_figure, with_alt


def draw_precision_recall(scores: np.ndarray, targets: np.ndarray, ignore: np.ndarray | None = None) -> Figure:
    """Precision over recall: a thin line for each label, a thick one for their mean. scores, targets: (N, L)."""
    recalls = np.linspace(0, 1, 101)
    curves = []
    for label in range(scores.shape[1]):
        kept = slice(None) if ignore is None else ignore[:, label] == 0
        truth = targets[kept, label][np.argsort(-scores[kept, label], kind="stable")].astype(bool)
        if truth.any():
            found = np.cumsum(truth)
            precision = np.maximum.accumulate((found / np.arange(1, len(truth) + 1))[::-1])[::-1]
            ranks = np.searchsorted(found, recalls * found[-1] - 1e-9)
            curves.append(precision[ranks])
    mean = np.mean(curves, axis=0) if curves else np.full(len(recalls), np.nan)
    with styled_figure(height=3.2, width=4.5) as (figure, (ax,)):
        for curve in curves:
            ax.plot(100 * recalls, 100 * curve, color="0.8", linewidth=0.6)
        ax.plot(100 * recalls, 100 * mean, linewidth=2)
        ax.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 100), ylim=(0, 102))
        ax.set_title(f"mean over {len(curves)} labels: {percent(mean[80])} % precision at 80 % recall")
    alt = f"Precision over recall of {len(curves)} labels and their mean: {percent(mean[50])} % precision at 50 % recall, "
    return with_alt(figure, f"{alt}{percent(mean[80])} % at 80 %, {percent(mean[95])} % at 95 %.")


def draw_thresholds(choice: Any, used: Mapping[str, float], threshold: float = 0.5) -> Figure:
    """CF1 and OF1 at every threshold, and what the one in use costs against the best.

    choice: what `evaluation.calibration.choose_thresholds` gives. used: `CF1` and `OF1` at `threshold`, as
    `evaluation.metrics.precision_recall` gives them. The best threshold, and the best one for each label, are chosen on
    these very images: more than one would get on others.
    """
    thresholds, curves = choice.thresholds, {"CF1": choice.CF1, "OF1": choice.OF1}
    at_best = {name: int(values.argmax()) for name, values in curves.items()}
    highest = {name: float(values.max()) for name, values in curves.items()}
    own = {"CF1": choice.CF1_per_label, "OF1": choice.OF1_per_label}
    lost, lost_to_own = (
        {name: f"{max(0.0, 100 * (best[name] - np.nan_to_num(used[name]))):.1f}" for name in curves}
        for best in (highest, own)
    )
    costs = " and ".join(f"{lost[name]} of {name}" for name in curves)
    with styled_figure(height=3.2, width=5) as (figure, (ax,)):
        # Names stand where the curves are far apart, away from the ends and from the dotted line.
        apart = np.where(np.abs(thresholds - threshold) < 0.1, 0, np.abs(choice.CF1 - choice.OF1))[5:95]
        spot = 5 + int(apart.argmax())
        for (name, values), mark, size in zip(curves.items(), ("-o", "--s"), (7, 4), strict=True):
            (line,) = ax.plot(thresholds, 100 * values, mark, markevery=[at_best[name]], markersize=size)
            above = 1 if values[spot] == max(curve[spot] for curve in curves.values()) else -1
            leftwards = above if values[spot + 1] > values[spot - 1] else -above
            ax.annotate(
                name, (thresholds[spot], 100 * values[spot]), (-8 * leftwards, 6 * above), textcoords="offset points",
                color=line.get_color(), va="center", ha="right" if leftwards > 0 else "left",
            )  # fmt: skip
        ax.axvline(threshold, linestyle=":", color="black", linewidth=1)
        ax.set(xlabel="threshold (dotted: in use; marks: best)", ylabel="F1, %", xlim=(0, 1), ylim=(0, 100))
        title = f"{threshold:g} costs {costs} against the best threshold,\n"
        ax.set_title(title + " and ".join(lost_to_own.values()) + " against the best one for each label")
    alt = "; ".join(
        f"{name} is {percent(used[name])} % at {threshold:g}, {percent(highest[name])} % at the best single "
        f"threshold ({thresholds[at_best[name]]:.2f}) and {percent(own[name])} % with the best one for each label"
        for name in curves
    )
    alt = f"F1 over the threshold: {alt}. So {threshold:g} costs {costs}, in points."
    return with_alt(figure, f"{alt} The best ones are chosen on the images that they are judged on.")


def draw_calibration(found: Any) -> Figure:
    """How often a label is there over its score, all images and labels together, and how many scores each bin has.

    found: what `evaluation.calibration.measure_reliability` gives.
    """
    width = found.edges[1]
    centres = found.edges[:-1] + width / 2
    gaps = found.frequency - found.mean_score
    with styled_figure(2, 1, height=4.0, width=5, sharex=True, height_ratios=[3, 1]) as (figure, (top, bottom)):
        top.plot([0, 1], [0, 100], ":", color="black", linewidth=1)
        top.vlines(found.mean_score, 100 * found.mean_score, 100 * found.frequency, color="0.7", linewidth=3, zorder=1)
        filled = found.counts > 0
        top.plot(found.mean_score[filled], 100 * found.frequency[filled], "o-", markersize=5)
        title = f"expected calibration error {percent(found.error)} points; dotted: as the score says"
        top.set(ylabel="labels that are there, %", xlim=(0, 1), ylim=(-3, 103), title=title)
        bottom.bar(centres[filled], found.counts[filled], width=0.9 * width, color="0.75")
        for centre, count in zip(centres[filled], found.counts[filled], strict=True):
            bottom.annotate(f"{count:,}", (centre, count), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        bottom.set(yscale="log", ylim=(0.5, 8 * max(1, found.counts.max())))
        bottom.set(ylabel="scores", xlabel=f"score, in {len(centres)} bins of equal width")
        figure.align_ylabels()
    if not filled.any():
        return with_alt(figure, "Reliability diagram without a score.")
    worst = int(np.nanargmax(np.abs(gaps)))
    low, high = found.edges[worst], found.edges[worst + 1]
    return with_alt(
        figure,
        f"Reliability diagram of {found.counts.sum():,} scores in {len(centres)} bins of equal width: the expected "
        f"calibration error is {percent(found.error)} points. The largest gap is between {low:.1f} and {high:.1f}, where "
        f"the {found.counts[worst]:,} scores are {100 * found.mean_score[worst]:.0f} % on average and "
        f"{100 * found.frequency[worst]:.0f} % of the labels are there: scores there are "
        f"{'too high' if gaps[worst] < 0 else 'too low'}.",
    )
