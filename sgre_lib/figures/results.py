"""Figures of results: label by label, over thresholds, model against model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from matplotlib.transforms import Bbox

from ..evaluation.calibration import THRESHOLDS, choose_thresholds, measure_reliability
from ..evaluation.metrics import precision_recall
from .style import figure_style, make_figure, percent, with_alt

MARKERS = "osD^vP*X"
LEAST_GAP = 0.0005
"""A smaller gap reads 0.0 in percent, and is not worth a label's name."""

MOST_LABELS = 100
"""Above this many labels a figure shows the ones at both ends of its order."""


def draw_label_ap(
    labels: Sequence[str], ap: Mapping[str, np.ndarray], *, published: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """AP of each label for one or several models (name -> (L,) in 0..1), labels sorted by the first model's.

    published: the same of others' papers, drawn hollow. NaN where there is no value. Of more than 100 labels 60 are
    shown: those where the first model gains and loses most against the second, or alone its best and weakest.
    """
    every = {name: np.asarray(values, dtype=float) for name, values in {**ap, **(published or {})}.items()}
    (first_name, first), *others = every.items()
    order = np.argsort(-first, kind="stable")  # NaN comes last
    shown = order
    if len(labels) > MOST_LABELS:
        key = first - others[0][1] if others else first
        sorted_by_key = np.argsort(-key, kind="stable")[: int(np.isfinite(key).sum())]
        ends = np.concatenate([sorted_by_key[:30], sorted_by_key[30:][-30:]])
        shown = np.array([i for i in order if i in set(ends.tolist())], dtype=int)
    said = [_describe_gaps(labels, first, name, values) for name, values in others]
    with figure_style():
        figure, axes = make_figure(height=max(2.4, 0.19 * len(shown) + 1.1))
        ax = axes[0, 0]
        for number, (name, values) in enumerate(every.items()):
            hollow = {"markerfacecolor": "none", "color": "black"} if number >= len(ap) else {}
            finite = values[np.isfinite(values)]
            over = "" if len(finite) == len(labels) else f" over {len(finite)} labels"
            mean = percent(float(finite.mean())) if len(finite) else "-"
            ax.plot(
                100 * values[shown], range(len(shown)), MARKERS[number % len(MARKERS)], linestyle="", markersize=5,
                label=f"{name} (mAP {mean}{over})", **hollow,
            )  # fmt: skip
        if others:
            stacked = np.ma.masked_invalid(100 * np.stack(list(every.values()))[:, shown])
            ax.hlines(range(len(shown)), stacked.min(0), stacked.max(0), color="0.85", zorder=0)
        ax.set_yticks(range(len(shown)), [labels[i] for i in shown], fontsize=8)
        ax.invert_yaxis()
        ax.margins(y=min(0.05, 0.6 / max(1, len(shown))))
        ax.set_xlabel("AP, %" + ("" if len(shown) == len(labels) else f" ({len(shown)} of {len(labels)} labels)"))
        ax.grid(axis="x", color="0.92")
        if said:
            ax.set_title(textwrap.fill(said[0].replace(" +", "\xa0+").replace(" -", "\xa0-"), 80))
        figure.legend(loc="outside upper center", ncols=min(2, len(every)), frameon=False)
    alt = f"Average precision of {len(labels)} labels: {first_name}"
    if np.isfinite(first).any():
        low, high = int(np.nanargmin(first)), int(np.nanargmax(first))
        alt += f" ranges from {percent(first[low])} ({labels[low]}) to {percent(first[high])} ({labels[high]})"
    else:
        alt += " has no value"
    alt = "; it is ".join([alt, *said]) + "."
    return with_alt(figure, alt + ("" if len(shown) == len(labels) else f" {len(shown)} of the labels are shown."))


def _describe_gaps(labels: Sequence[str], first: np.ndarray, name: str, other: np.ndarray) -> str:
    """Where `first` gains and loses most against `other`, in words and points."""
    gaps = first - other
    compared = np.isfinite(gaps)
    if not compared.any():
        return f"not comparable with {name}"
    order = np.argsort(-gaps, kind="stable")[: int(compared.sum())]
    gains = [f"{labels[i]} {100 * gaps[i]:+.1f}" for i in order[:2] if gaps[i] >= LEAST_GAP]
    losses = [f"{labels[i]} {100 * gaps[i]:+.1f}" for i in order[::-1][:2] if gaps[i] <= -LEAST_GAP]
    text = f"above {name} for {int((gaps > 0).sum())} of {int(compared.sum())} labels"
    if gains:
        text += f", most for {' and '.join(gains)}"
    if losses:
        text += f", below most for {' and '.join(losses)}"
    return text


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
    with figure_style():
        figure, axes = make_figure(height=3.2, width=4.5)
        ax = axes[0, 0]
        for curve in curves:
            ax.plot(100 * recalls, 100 * curve, color="0.8", linewidth=0.6)
        ax.plot(100 * recalls, 100 * mean, linewidth=2)
        ax.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 100), ylim=(0, 102))
        ax.set_title(f"mean over {len(curves)} labels: {percent(mean[80])} % precision at 80 % recall")
    return with_alt(
        figure,
        f"Precision over recall of {len(curves)} labels and their mean: {percent(mean[50])} % precision at 50 % recall, "
        f"{percent(mean[80])} % at 80 %, {percent(mean[95])} % at 95 %.",
    )


def draw_thresholds(
    scores: np.ndarray, targets: np.ndarray, threshold: float = 0.5, ignore: np.ndarray | None = None
) -> Figure:
    """CF1 and OF1 at every threshold, and what the one in use costs against the best. scores, targets: (N, L).

    The best threshold, and the best one for each label, are chosen on these very images: more than one would get on
    others.
    """
    choice = choose_thresholds(scores, targets, ignore)
    used = precision_recall(scores, targets, ignore, threshold=threshold)
    curves = {"CF1": choice.CF1, "OF1": choice.OF1}
    at_best = {name: int(values.argmax()) for name, values in curves.items()}
    lost = {name: max(0.0, 100 * (curves[name].max() - np.nan_to_num(used[name]))) for name in curves}
    own = {"CF1": choice.CF1_per_label, "OF1": choice.OF1_per_label}
    with figure_style():
        figure, axes = make_figure(height=3.2, width=5)
        ax = axes[0, 0]
        # Names stand where the curves are far apart, away from the ends and from the dotted line.
        apart = np.where(np.abs(THRESHOLDS - threshold) < 0.1, 0, np.abs(choice.CF1 - choice.OF1))[5:95]
        spot = 5 + int(apart.argmax())
        for name, mark in (("CF1", "-o"), ("OF1", "--s")):
            values = curves[name]
            (line,) = ax.plot(
                THRESHOLDS, 100 * values, mark, markevery=[at_best[name]], markersize=7 if name == "CF1" else 4
            )
            above = 1 if values[spot] == max(curve[spot] for curve in curves.values()) else -1
            leftwards = above if values[spot + 1] > values[spot - 1] else -above
            ax.annotate(
                name, (THRESHOLDS[spot], 100 * values[spot]), (-8 * leftwards, 6 * above), textcoords="offset points",
                color=line.get_color(), va="center", ha="right" if leftwards > 0 else "left",
            )  # fmt: skip
        ax.axvline(threshold, linestyle=":", color="black", linewidth=1)
        ax.set(xlabel="threshold (dotted: in use; marks: best)", ylabel="F1, %", xlim=(0, 1), ylim=(0, 100))
        costs = " and ".join(f"{lost[name]:.1f} of {name}" for name in curves)
        ax.set_title(
            f"{threshold:g} costs {costs} against the best threshold,\n"
            + " and ".join(f"{max(0.0, 100 * (own[name] - np.nan_to_num(used[name]))):.1f}" for name in curves)
            + " against the best one for each label"
        )
    alt = "; ".join(
        f"{name} is {percent(used[name])} % at {threshold:g}, {percent(float(curves[name].max()))} % at the best single "
        f"threshold ({THRESHOLDS[at_best[name]]:.2f}) and {percent(own[name])} % with the best one for each label"
        for name in curves
    )
    return with_alt(
        figure,
        f"F1 over the threshold: {alt}. So {threshold:g} costs {costs}, in points. The best ones are chosen on the "
        "images that they are judged on.",
    )


def draw_calibration(
    scores: np.ndarray, targets: np.ndarray, ignore: np.ndarray | None = None, *, bins: int = 10
) -> Figure:
    """How often a label is there over its score, all images and labels together, and how many scores each bin has.

    scores, targets: (N, L). The bins are of equal width; see `calibration.measure_reliability`.
    """
    found = measure_reliability(scores, targets, ignore, bins)
    width = found.edges[1]
    centres = found.edges[:-1] + width / 2
    gaps = found.frequency - found.mean_score
    with figure_style():
        figure, axes = make_figure(2, 1, height=4.0, width=5, sharex=True, height_ratios=[3, 1])
        top, bottom = axes[:, 0]
        top.plot([0, 1], [0, 100], ":", color="black", linewidth=1)
        top.vlines(found.mean_score, 100 * found.mean_score, 100 * found.frequency, color="0.7", linewidth=3, zorder=1)
        filled = found.counts > 0
        top.plot(found.mean_score[filled], 100 * found.frequency[filled], "o-", markersize=5)
        top.set(ylabel="labels that are there, %", xlim=(0, 1), ylim=(-3, 103))
        top.set_title(f"expected calibration error {percent(found.error)} points; dotted: as the score says")
        bottom.bar(centres[filled], found.counts[filled], width=0.9 * width, color="0.75")
        for centre, count in zip(centres[filled], found.counts[filled], strict=True):
            bottom.annotate(f"{count:,}", (centre, count), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        bottom.set_yscale("log")
        bottom.set_ylim(0.5, 8 * max(1, found.counts.max()))
        bottom.set(ylabel="scores", xlabel=f"score, in {bins} bins of equal width")
        figure.align_ylabels()
    if not filled.any():
        return with_alt(figure, "Reliability diagram without a score.")
    worst = int(np.nanargmax(np.abs(gaps)))
    low, high = found.edges[worst], found.edges[worst + 1]
    return with_alt(
        figure,
        f"Reliability diagram of {found.counts.sum():,} scores in {bins} bins of equal width: the expected calibration "
        f"error is {percent(found.error)} points. The largest gap is between {low:.1f} and {high:.1f}, where the "
        f"{found.counts[worst]:,} scores are {100 * found.mean_score[worst]:.0f} % on average and "
        f"{100 * found.frequency[worst]:.0f} % of the labels are there: scores there are "
        f"{'too high' if gaps[worst] < 0 else 'too low'}.",
    )


def draw_comparison(
    rows: Mapping[str, float],
    *,
    metric: str = "mAP",
    published: Mapping[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    interval: str = "95 % interval",
    texts: Mapping[str, str] | None = None,
) -> Figure:
    """One bar a row with its value written at its end; a published value is a thin dotted line. Values in 0..1.

    intervals: (low, high) of some rows, drawn as a thin line; `interval` says what they are. NaN is no value. texts:
    how values are written, in percent (default: with one decimal).
    """
    published, intervals = published or {}, intervals or {}
    texts = {name: percent(value) for name, value in rows.items()} | dict(texts or {})
    best = max(rows, key=lambda name: np.nan_to_num(rows[name], nan=-1.0))
    with figure_style():
        figure, axes = make_figure(height=0.42 * len(rows) + 0.9)
        ax = axes[0, 0]
        names = list(rows)
        for i, name in enumerate(names):
            value = 100 * np.nan_to_num(rows[name])
            ax.barh(i, value, color="C0" if name == best else "0.75")
            end = value
            if name in intervals:
                low, high = (100 * side for side in intervals[name])
                ax.plot([low, high], [i, i], color="black", linewidth=1, marker="|", markersize=6)
                end = max(value, high)
            if name in published and end < 100 * published[name] < end + 9:
                end = 100 * published[name]  # the number would stand on the dotted line
            ax.annotate(texts[name], (end, i), (4, 0), textcoords="offset points", va="center")
            if name in published:
                ax.plot([100 * published[name]] * 2, [i - 0.45, i + 0.45], ":", color="black", linewidth=1)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlim(0, 108)
        notes = [f"line: {interval}"] * bool(intervals) + ["dotted: published"] * bool(published)
        ax.set_xlabel(f"{metric}, %" + "".join(f"; {note}" for note in notes))
        ax.set_title(f"{best}: {metric} {texts[best]}")
    listed = ", ".join(
        f"{name} {texts[name]}"
        + (f" ({percent(intervals[name][0])} to {percent(intervals[name][1])})" if name in intervals else "")
        for name in rows
    )
    brackets = f" In brackets: {interval}." if intervals else ""
    return with_alt(figure, f"Bar chart of {metric} in percent: {listed}. {best} is highest.{brackets}")


class CostPoint(NamedTuple):
    """A model in `draw_cost`: what it costs and what it reaches (0..1), with an interval where one is known."""

    name: str
    cost: float
    value: float
    low: float = math.nan
    high: float = math.nan
    published: bool = False


def draw_cost(points: Sequence[CostPoint], *, cost: str = "GFLOPs an image", metric: str = "mAP") -> Figure:
    """What models reach over what they cost, each point named beside it; published ones are hollow and say so.

    A point without cost or value (NaN) is left out and named in the alt text.
    """
    drawn = [point for point in points if math.isfinite(point.cost) and math.isfinite(point.value)]
    left_out = [point.name for point in points if point not in drawn]
    with figure_style():
        figure, axes = make_figure(height=3.8)
        ax = axes[0, 0]
        ours = to_hex("C0")  # the style's; a name would be looked up when the style is gone
        for point in drawn:
            colour = "black" if point.published else ours
            ax.plot(
                point.cost, 100 * point.value, "D" if point.published else "o", color=colour,
                markerfacecolor="none" if point.published else colour, markersize=6,
            )  # fmt: skip
            if math.isfinite(point.low) and math.isfinite(point.high):
                ax.vlines(point.cost, 100 * point.low, 100 * point.high, color=colour, linewidth=1)
        costs = [point.cost for point in drawn if point.cost > 0]
        logarithmic = bool(costs) and max(costs) > 5 * min(costs)
        if logarithmic:
            ax.set_xscale("log", subs=[])
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.margins(x=0.12, y=0.15)
        ax.set(xlabel=cost + (" (logarithmic)" if logarithmic else ""), ylabel=f"{metric}, %")
        ax.grid(color="0.93")
        ax.set_axisbelow(True)
        best = max(drawn, key=lambda point: point.value, default=None)
        if best is not None:
            ax.set_title(f"highest: {best.name}, {metric} {percent(best.value)} at {best.cost:.3g} {cost}")
        _name_points(ax, drawn)
    listed = "; ".join(
        f"{point.name}{' (published)' if point.published else ''} {metric} {percent(point.value)} at {point.cost:.3g}"
        for point in sorted(drawn, key=lambda point: point.cost)
    )
    alt = f"{metric} in percent over {cost}, cheapest first: {listed or 'no point'}."
    if best is not None:
        alt += f" {best.name} is highest."
    return with_alt(figure, alt + (f" Not drawn, without a value: {', '.join(left_out)}." if left_out else ""))


def _name_points(ax: Axes, points: Sequence[CostPoint]) -> None:
    """Write each point's name beside it, where it covers neither a point nor another name if there is such a place."""
    figure = ax.figure
    figure.draw_without_rendering()  # places are known only once the layout is made
    half = 5 * figure.dpi / 72
    marks = [ax.transData.transform((point.cost, 100 * point.value)) for point in points]
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in marks]
    sides = [(7, 0, "left"), (-7, 0, "right"), (0, 12, "center"), (0, -12, "center")]
    places = sides + [(dx, dy, ha) for dy in (9, -9, 18, -18) for dx, ha in ((7, "left"), (-7, "right"))]
    for number, point in enumerate(points):
        mark, others = (point.cost, 100 * point.value), taken[:number] + taken[number + 1 :]
        text = ax.annotate(
            point.name + (" (published)" if point.published else ""), mark, (0, 0), textcoords="offset points",
            fontsize=8, va="center",
        )  # fmt: skip

        def put(place: tuple[float, float, str], text=text) -> Bbox:
            text.set_position(place[:2])
            text.set_horizontalalignment(place[2])
            return text.get_window_extent()

        def clashes(place: tuple[float, float, str], put=put, others=others) -> int:
            box = put(place)
            inside = ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1)
            return sum(box.overlaps(other) for other in others) + (0 if inside else 10)

        taken.append(put(min(places, key=clashes)))
