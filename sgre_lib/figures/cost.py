"""The figure of what models reach over what they cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, StrMethodFormatter
from matplotlib.transforms import Bbox

from .style import percent, styled_figure, with_alt


class CostPoint(NamedTuple):
    """A model in `draw_cost`: GFLOPs an image, mAP in 0..1, and the interval of the mAP where one is known."""

    name: str
    cost: float
    value: float
    low: float = math.nan
    high: float = math.nan
    published: bool = False


def draw_cost(points: Sequence[CostPoint]) -> Figure:
    """mAP of models over their cost, each point named beside it; published ones are hollow and say so.

    A point without cost or value (NaN) is left out and named in the alt text.
    """
    drawn = [point for point in points if math.isfinite(point.cost) and math.isfinite(point.value)]
    left_out = [point.name for point in points if point not in drawn]
    with styled_figure(height=3.8) as (figure, (ax,)):
        ours = to_hex("C0")  # the style's; a name would be looked up when the style is gone
        for point in drawn:
            mark, colour, face = ("D", "black", "none") if point.published else ("o", ours, ours)
            ax.plot(point.cost, 100 * point.value, mark, color=colour, markerfacecolor=face, markersize=6)
            if math.isfinite(point.low) and math.isfinite(point.high):
                ax.vlines(point.cost, 100 * point.low, 100 * point.high, color=colour, linewidth=1)
        costs = [point.cost for point in drawn if point.cost > 0]
        logarithmic = bool(costs) and max(costs) > 5 * min(costs)
        if logarithmic:
            ax.set_xscale("log", subs=[])
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.margins(x=0.12, y=0.15)
        ax.set(xlabel="GFLOPs an image" + (" (logarithmic)" if logarithmic else ""), ylabel="mAP, %", axisbelow=True)
        ax.grid(color="0.93")
        best = max(drawn, key=lambda point: point.value, default=None)
        if best is not None:
            ax.set_title(f"highest: {best.name}, mAP {percent(best.value)} at {best.cost:.3g} GFLOPs an image")
        _name_points(ax, drawn)
    listed = "; ".join(
        f"{point.name}{' (published)' if point.published else ''} mAP {percent(point.value)} at {point.cost:.3g}"
        for point in sorted(drawn, key=lambda point: point.cost)
    )
    alt = f"mAP in percent over GFLOPs an image, cheapest first: {listed or 'no point'}."
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
        others = taken[:number] + taken[number + 1 :]
        name = point.name + (" (published)" if point.published else "")
        spot = (point.cost, 100 * point.value)
        text = ax.annotate(name, spot, (0, 0), textcoords="offset points", fontsize=8, va="center")
        best = min(places, key=lambda place: _put(text, place, others)[0])
        taken.append(_put(text, best, others)[1])


def _put(text: Annotation, place: tuple[float, float, str], others: Sequence[Bbox]) -> tuple[int, Bbox]:
    """Move a name to (dx, dy, alignment) from its point, in points: how many boxes it covers there, and its own.

    To leave the axes is worse than to cover any that are there.
    """
    text.set_position(place[:2])
    text.set_horizontalalignment(place[2])
    box, inside = text.get_window_extent(), text.axes.bbox
    stays = inside.containsx(box.x0) and inside.containsx(box.x1)
    return sum(box.overlaps(other) for other in others) + (0 if stays else 10), box
