"""Figures label by label: average precision of models, and how well their heatmaps find objects against chance."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import percent, styled_figure, with_alt

MARKERS = "osD^vP*X"

MOST_LABELS = 100
"""Above this many labels a figure shows 60: 30 at each end of an order."""

LEAST_GAP = 0.0005
"""A smaller gap reads 0.0 in percent, and is not worth a label's name."""


def draw_label_ap(
    labels: Sequence[str], ap: Mapping[str, np.ndarray], *, published: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """AP of each label for one or several models (name -> (L,) in 0..1), labels sorted by the first model's.

    published: the same of others' papers, drawn hollow. NaN where there is no value. Of more than 100 labels 60 are
    shown: those where the first model gains and loses most against the second, or alone its best and weakest.
    """
    every = {name: np.asarray(values, dtype=float) for name, values in {**ap, **(published or {})}.items()}
    (first_name, first), *others = every.items()
    shown = np.argsort(-first, kind="stable")  # NaN comes last
    if len(labels) > MOST_LABELS:
        shown = _keep_ends(shown, first - others[0][1] if others else first)
    said = [_describe_gaps(labels, first, name, values) for name, values in others]
    marks = []
    for number, (name, values) in enumerate(every.items()):
        finite = values[np.isfinite(values)]
        mean = percent(float(finite.mean()) if len(finite) else None)
        over = "" if len(finite) == len(labels) else f" over {len(finite)} labels"
        hollow = {"markerfacecolor": "none", "color": "black"} if number >= len(ap) else {}
        marks.append((f"{name} (mAP {mean}{over})", values, {"marker": MARKERS[number % len(MARKERS)], **hollow}))
    xlabel = "AP, %" + ("" if len(shown) == len(labels) else f" ({len(shown)} of {len(labels)} labels)")
    title = textwrap.fill(said[0].replace(" +", "\xa0+").replace(" -", "\xa0-"), 80) if said else ""
    figure = _draw_marks(labels, shown, marks, header=1.1, columns=min(2, len(every)), xlabel=xlabel, title=title)
    ranges = "has no value"
    if np.isfinite(first).any():
        low, high = int(np.nanargmin(first)), int(np.nanargmax(first))
        ranges = f"ranges from {percent(first[low])} ({labels[low]}) to {percent(first[high])} ({labels[high]})"
    alt = "; it is ".join([f"Average precision of {len(labels)} labels: {first_name} {ranges}", *said]) + "."
    return with_alt(figure, alt + ("" if len(shown) == len(labels) else f" {len(shown)} of the labels are shown."))


def draw_localisation(
    labels: Sequence[str], found: Mapping[str, np.ndarray], chance: np.ndarray, what: str = "pointing"
) -> Figure:
    """How well each label's maps find its boxes: a mark a model, a bar at chance; labels sorted by the first model.

    found: model -> (L,) in 0..1; chance: (L,). NaN where a label has no boxes. what: the measure, for the axis. Of more
    than 100 labels 60 are shown: the 30 where the first model gains most over chance, and the 30 where it gains least.
    """
    every = {name: np.asarray(values, dtype=float) for name, values in {**found, "chance": chance}.items()}
    (first_name, first), *_ = every.items()
    measured = int(np.isfinite(first).sum())
    shown = np.argsort(-first, kind="stable")[:measured]  # NaN comes last
    if measured > MOST_LABELS:
        shown = _keep_ends(shown, first - every["chance"])
    below = [labels[i] for i in np.flatnonzero(first < every["chance"])]
    finding = f"{first_name} is above chance for {measured - len(below)} of {measured} labels"
    if below:
        finding += f", below for {', '.join(below[:4])}{', ...' if len(below) > 4 else ''}"
    means = {name: percent(float(np.nanmean(values))) for name, values in every.items()}
    at_chance = {"marker": "|", "color": "black", "markersize": 8, "markeredgewidth": 1.5}
    looks = [{"marker": MARKERS[number % len(MARKERS)]} for number in range(len(found))] + [at_chance]
    marks = [(f"{name} (mean {means[name]})", every[name], look) for name, look in zip(every, looks, strict=True)]
    axis = {"xlabel": f"{what}, %", "xlim": (-2, 102), "title": textwrap.fill(finding, 100)}
    axis["fontsize"] = 8 if len(shown) <= 60 else 6
    figure = _draw_marks(labels, shown, marks, header=1.2, columns=len(every), **axis)
    listed = ", ".join(f"{name} {mean}" for name, mean in means.items())
    return with_alt(figure, f"{what.capitalize()} of {measured} labels in percent: on average {listed}. {finding}.")


def _keep_ends(order: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Of labels in an order, those with the 30 highest and the 30 lowest keys, in that order; NaN is no key."""
    by_key = np.argsort(-key, kind="stable")[: int(np.isfinite(key).sum())]
    ends = {*by_key[:30].tolist(), *by_key[30:][-30:].tolist()}
    return np.array([i for i in order if i in ends], dtype=int)


def _draw_marks(
    labels: Sequence[str],
    shown: np.ndarray,
    marks: Sequence[tuple[str, np.ndarray, dict]],
    *,
    header: float,
    columns: int,
    fontsize: int = 8,
    **axis,
) -> Figure:
    """A line for each shown label, with a mark of every series (legend, values (L,), style) on it.

    header: inches above and below the lines. columns: of the legend. axis: the title, and more of the x axis.
    """
    with styled_figure(height=max(2.4, 0.19 * len(shown) + header)) as (figure, (ax,)):
        rows = range(len(shown))
        for legend, values, style in marks:
            ax.plot(100 * values[shown], rows, **{"linestyle": "", "markersize": 5, "label": legend, **style})
        if len(marks) > 1:
            stacked = np.ma.masked_invalid(100 * np.stack([values for _, values, _ in marks])[:, shown])
            ax.hlines(rows, stacked.min(0), stacked.max(0), color="0.85", zorder=0)
        ax.set_yticks(rows, [labels[i] for i in shown], fontsize=fontsize)
        ax.invert_yaxis()
        ax.margins(y=min(0.05, 0.6 / max(1, len(shown))))
        ax.set(**axis)
        ax.grid(axis="x", color="0.92")
        figure.legend(loc="outside upper center", ncols=columns, frameon=False)
    return figure


def _describe_gaps(labels: Sequence[str], first: np.ndarray, name: str, other: np.ndarray) -> str:
    """Where `first` gains and loses most against `other`, in words and points."""
    gaps = first - other
    compared = np.isfinite(gaps)
    if not compared.any():
        return f"not comparable with {name}"
    order = np.argsort(-gaps, kind="stable")[: int(compared.sum())]
    text = f"above {name} for {int((gaps > 0).sum())} of {len(order)} labels"
    for words, sign, ends in (("most for", 1, order[:2]), ("below most for", -1, order[::-1][:2])):
        if named := [f"{labels[i]} {100 * gaps[i]:+.1f}" for i in ends if sign * gaps[i] >= LEAST_GAP]:
            text += f", {words} {' and '.join(named)}"
    return text
