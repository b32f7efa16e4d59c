"""The figure that compares rows: a bar a row, with intervals and published values."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from .style import percent, styled_figure, with_alt


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
    with styled_figure(height=0.42 * len(rows) + 0.9) as (figure, (ax,)):
        for i, name in enumerate(rows):
            end = value = 100 * np.nan_to_num(rows[name])
            ax.barh(i, value, color="C0" if name == best else "0.75")
            if name in intervals:
                low, high = (100 * side for side in intervals[name])
                ax.plot([low, high], [i, i], color="black", linewidth=1, marker="|", markersize=6)
                end = max(value, high)
            if name in published and end < 100 * published[name] < end + 9:
                end = 100 * published[name]  # the number would stand on the dotted line
            ax.annotate(texts[name], (end, i), (4, 0), textcoords="offset points", va="center")
            if name in published:
                ax.plot([100 * published[name]] * 2, [i - 0.45, i + 0.45], ":", color="black", linewidth=1)
        ax.set_yticks(range(len(rows)), list(rows))
        ax.invert_yaxis()
        notes = f"; line: {interval}" * bool(intervals) + "; dotted: published" * bool(published)
        ax.set(xlim=(0, 108), xlabel=f"{metric}, %{notes}", title=f"{best}: {metric} {texts[best]}")
    ranges = {name: f" ({percent(low)} to {percent(high)})" for name, (low, high) in intervals.items()}
    listed = ", ".join(f"{name} {texts[name]}{ranges.get(name, '')}" for name in rows)
    brackets = f" In brackets: {interval}." if intervals else ""
    return with_alt(figure, f"Bar chart of {metric} in percent: {listed}. {best} is highest.{brackets}")
