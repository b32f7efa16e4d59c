"""Figures of training: curves over epochs."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import percent, styled_figure, with_alt


def draw_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and learning rate, and mAP of the model and its moving average, over epochs."""
    epochs = [row["epoch"] for row in history]
    best = max(history, key=lambda row: row["ema_mAP"])
    with styled_figure(1, 2, height=2.6) as (figure, (left, right)):
        left.plot(epochs, [row["train_loss"] for row in history], marker="." if len(history) < 3 else None)
        left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None), title="training loss")
        ends = {key: 100 * history[-1][key] for key in ("mAP", "ema_mAP")}
        for key, name in (("mAP", "model"), ("ema_mAP", "moving average")):
            (line,) = right.plot(epochs, [100 * row[key] for row in history], marker="." if len(history) < 10 else None)
            # The higher line's name goes above its end, the other's below, so that close ends stay legible.
            higher = ends[key] == max(ends.values()) and (key == "mAP" or ends["mAP"] != ends["ema_mAP"])
            right.annotate(
                name, (epochs[-1], ends[key]), (0, 6 if higher else -10), textcoords="offset points",
                color=line.get_color(), fontsize=8, ha="right", va="center", annotation_clip=False,
            )  # fmt: skip
        for ax in (left, right):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        right.margins(y=0.12)
        reached = f"mAP {percent(best['ema_mAP'])} at epoch {best['epoch']}"
        right.set(xlabel="epoch", ylabel="test mAP, %", title=f"best moving average: {reached}")
    losses = f"loss falls from {history[0]['train_loss']:.0f} to {history[-1]['train_loss']:.0f}"
    alt = f"Training curves: {losses} over {len(history)} epochs; the moving average reaches {reached}."
    return with_alt(figure, alt)


def draw_histories(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """EMA mAP over epochs, one line a run, named at its end in the line's colour, in the order of the values."""
    with styled_figure(height=3.0) as (figure, (ax,)):
        runs = {
            name: [(row["epoch"], 100 * row["ema_mAP"]) for row in rows] for name, rows in histories.items() if rows
        }
        ends = {name: values[-1][1] for name, values in runs.items()}
        floor = 10 * math.floor(min(values[0][1] for values in runs.values()) / 10)
        lines = {}
        for name, values in runs.items():
            (lines[name],) = ax.plot(*zip(*values, strict=True), marker="." if len(values) < 10 else None)
        # Names at line ends are moved apart where lines end close together, and down again from the top.
        gap = 0.065 * (100 - floor)
        spot = 100 + gap
        for name in sorted(ends, key=lambda one: -ends[one]):
            spot = min(ends[name], spot - gap)
            ax.annotate(
                f"{name} {ends[name]:.1f}", (runs[name][-1][0], spot), (6, 0), textcoords="offset points",
                va="center", color=lines[name].get_color(), fontsize=8, annotation_clip=False,
            )  # fmt: skip
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        ax.set(xlabel="epoch", ylabel="test mAP of the moving average, %", ylim=(floor, 100))
    listed = ", ".join(f"{name} ends at {value:.1f}" for name, value in ends.items())
    return with_alt(figure, f"Test mAP of the moving average over epochs, in percent: {listed}.")
