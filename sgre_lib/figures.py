"""Figures: functions from data to a matplotlib `Figure`, in one style, each with its finding as alt text.

`figure.alt_text` is what a person who cannot see the picture should know. Nothing here reads files or draws on a screen.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import seaborn
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .files import open_atomic
from .metrics import precision_recall

WIDTH = 7.0
"""Inches; a page's text width."""

GREY = "#6b6b6b"


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """The one style of this project, for the figures drawn inside the block."""
    with matplotlib.rc_context():
        matplotlib.rcParams.update(style.library.get("petroff10", {}))
        matplotlib.rcParams.update(
            {
                "font.size": 9,
                "axes.titlesize": 9,
                "axes.labelsize": 9,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.titlesize": 10,
                "figure.dpi": 100,
            }
        )
        yield


def make_figure(rows: int = 1, columns: int = 1, *, height: float = 3.0, width: float = WIDTH, **options):
    """A figure of our width with rows x columns axes; returns (figure, axes as an array of that shape)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def with_alt(figure: Figure, alt: str) -> Figure:
    """The figure with its alt text set."""
    figure.alt_text = alt
    return figure


def save_figure(figure: Figure, path: str | os.PathLike, *, dpi: int = 150) -> Path:
    """Write a figure as PNG in one step, its alt text inside as the PNG's Description, and return the path."""
    with open_atomic(path, "wb") as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Description": getattr(figure, "alt_text", "")})
    return Path(path)


def percent(value: float) -> str:
    """A fraction in percent as papers print it, one decimal; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


# --- Datasets ----------------------------------------------------------------------------------------------------


def draw_photos(photos: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 4) -> Figure:
    """A contact sheet of photos, each under its caption."""
    with figure_style():
        rows = -(-len(photos) // columns)
        figure, axes = make_figure(rows, columns, height=2.0 * rows)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, photo, caption in zip(axes.flat, photos, captions, strict=False):
            ax.imshow(photo)
            ax.set_title(caption, fontsize=8, wrap=True)
    return with_alt(figure, f"{len(photos)} photos with their labels: " + "; ".join(captions))


def draw_label_counts(labels: Sequence[str], targets: np.ndarray) -> Figure:
    """Images of each label, most frequent first. targets: (N, L)."""
    counts = targets.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    with figure_style():
        figure, axes = make_figure(height=max(2.2, 0.17 * len(labels) + 0.7))
        ax = axes[0, 0]
        ax.barh([labels[i] for i in order], counts[order])
        ax.invert_yaxis()
        ax.set_xlabel(f"images with the label, of {len(targets)}")
        ax.set_title(f"{labels[order[0]]} is the most frequent label, {labels[order[-1]]} the rarest")
        ax.margins(y=0.01)
    alt = f"Bar chart of label counts: {labels[order[0]]} {counts[order[0]]}, ..., {labels[order[-1]]} {counts[order[-1]]}"
    return with_alt(figure, f"{alt} of {len(targets)} images.")


def conditional_probability(targets: np.ndarray) -> np.ndarray:
    """P(column label | row label), (L, L); NaN on the diagonal and in the row of a label that never occurs."""
    together = targets.astype(np.float64).T @ targets
    with np.errstate(invalid="ignore", divide="ignore"):
        result = together / np.diag(together)[:, None]
    np.fill_diagonal(result, np.nan)
    return result


def draw_cooccurrence(labels: Sequence[str], targets: np.ndarray) -> Figure:
    """Matrix of P(column label | row label); the diagonal is left blank. targets: (N, L)."""
    matrix = conditional_probability(targets)
    figure = _draw_matrix(labels, matrix, "P(column | row)", "Which labels come together")
    if np.isfinite(matrix).any():
        row, column = np.unravel_index(np.nanargmax(matrix), matrix.shape)
        strongest = f"; the strongest is {labels[column]} given {labels[row]}, {percent(matrix[row, column])} %"
    else:
        strongest = ""
    return with_alt(figure, f"Matrix of label co-occurrence{strongest}.")


def draw_similarity(labels: Sequence[str], embeddings: np.ndarray) -> Figure:
    """Matrix of cosine similarities of label embeddings (L, T); the diagonal is left blank."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    matrix = unit @ unit.T
    np.fill_diagonal(matrix, np.nan)
    figure = _draw_matrix(labels, matrix, "cosine similarity", "What the label names have to do with each other")
    row, column = np.unravel_index(np.nanargmax(matrix), matrix.shape)
    pair = f"{labels[row]} and {labels[column]} ({matrix[row, column]:.2f})"
    return with_alt(figure, f"Matrix of label similarities in the text model; the closest pair is {pair}.")


def _draw_matrix(labels: Sequence[str], matrix: np.ndarray, unit: str, title: str) -> Figure:
    with figure_style():
        side = float(np.clip(0.22 * len(labels) + 1.5, 3.5, WIDTH))
        figure, axes = make_figure(height=side, width=min(WIDTH, side + 1))
        ax = axes[0, 0]
        # Light is zero; one extreme pair must not wash out the rest.
        top = float(np.nanpercentile(matrix, 99)) if np.isfinite(matrix).any() else 1.0
        marked = labels if len(labels) <= 100 else False
        seaborn.heatmap(
            matrix,
            ax=ax,
            cmap="Blues",
            vmin=min(0.0, float(np.nanmin(matrix, initial=0.0))),
            vmax=top,
            mask=np.isnan(matrix),
            square=True,
            xticklabels=marked,
            yticklabels=marked,
            cbar_kws={"shrink": 0.7, "label": f"{unit} (colour ends at the 99th percentile, {top:.2f})"},
        )
        ax.tick_params(length=0, labelsize=8 if len(labels) <= 30 else 5)
        ax.set_title(title)
    return figure


# --- Training and results ----------------------------------------------------------------------------------------


def draw_history(history: Sequence[Mapping[str, float]], *, title: str = "") -> Figure:
    """Loss and learning rate, and mAP of the model and its moving average, over epochs."""
    epochs = [row["epoch"] for row in history]
    best = max(history, key=lambda row: row["ema_mAP"])
    with figure_style():
        figure, axes = make_figure(1, 2, height=2.6)
        left, right = axes[0]
        left.plot(epochs, [row["train_loss"] for row in history], marker="." if len(history) < 3 else None)
        left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        left.set_title("training loss")
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
        right.set(xlabel="epoch", ylabel="test mAP, %")
        right.set_title(f"best moving average: mAP {percent(best['ema_mAP'])} at epoch {best['epoch']}")
        if title:
            figure.suptitle(title)
    first, last = history[0], history[-1]
    alt = (
        f"Training curves{' of ' + title if title else ''}: loss falls from {first['train_loss']:.0f} to "
        f"{last['train_loss']:.0f} over {len(history)} epochs; the moving average reaches "
        f"mAP {percent(best['ema_mAP'])} at epoch {best['epoch']}."
    )
    return with_alt(figure, alt)


def draw_label_ap(labels: Sequence[str], ap: Mapping[str, np.ndarray]) -> Figure:
    """AP of each label for one or several models (name -> (L,) in 0..1), labels sorted by the first model's."""
    names = list(ap)
    order = np.argsort(-np.asarray(ap[names[0]]), kind="stable")
    with figure_style():
        figure, axes = make_figure(height=max(2.4, 0.19 * len(labels) + 0.9))
        ax = axes[0, 0]
        markers = "osD^vP*X"
        for number, name in enumerate(names):
            values = 100 * np.asarray(ap[name], dtype=float)[order]
            mean = percent(float(np.mean(ap[name])))
            ax.plot(
                values, range(len(labels)), markers[number % len(markers)], markersize=5, label=f"{name} (mAP {mean})"
            )
        if len(names) > 1:
            stacked = 100 * np.stack([np.asarray(ap[name], dtype=float)[order] for name in names])
            ax.hlines(range(len(labels)), stacked.min(0), stacked.max(0), color="0.85", zorder=0)
        ax.set_yticks(range(len(labels)), [labels[i] for i in order], fontsize=8 if len(labels) <= 40 else 5)
        ax.invert_yaxis()
        ax.set_xlabel("AP, %")
        ax.grid(axis="x", color="0.92")
        figure.legend(loc="outside upper center", ncols=min(2, len(names)), frameon=False)
    first = np.asarray(ap[names[0]])
    alt = (
        f"Average precision of each label: {names[0]} ranges from {percent(first.min())} ({labels[int(first.argmin())]}) "
        f"to {percent(first.max())} ({labels[int(first.argmax())]})"
    )
    if len(names) > 1:
        wins = int((first > np.asarray(ap[names[-1]])).sum())
        alt += f"; it is above {names[-1]} for {wins} of {len(labels)} labels"
    return with_alt(figure, alt + ".")


def draw_histories(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """EMA mAP over epochs, one line a run, named at its end in the line's colour, in the order of the values."""
    with figure_style():
        figure, axes = make_figure(height=3.0)
        ax = axes[0, 0]
        ends = {name: 100 * history[-1]["ema_mAP"] for name, history in histories.items() if history}
        lowest = min(100 * history[0]["ema_mAP"] for history in histories.values() if history)
        floor = 10 * math.floor(lowest / 10)
        lines = {}
        for name in ends:
            epochs = [row["epoch"] for row in histories[name]]
            values = [100 * row["ema_mAP"] for row in histories[name]]
            (lines[name],) = ax.plot(epochs, values, marker="." if len(epochs) < 10 else None)
        # Names at line ends are moved apart where lines end close together, and down again from the top.
        gap, order = 0.065 * (100 - floor), sorted(ends, key=lambda one: -ends[one])
        spot = 100 + gap
        for name in order:
            spot = min(ends[name], spot - gap)
            ax.annotate(
                f"{name} {ends[name]:.1f}", (histories[name][-1]["epoch"], spot), (6, 0), textcoords="offset points",
                va="center", color=lines[name].get_color(), fontsize=8, annotation_clip=False,
            )  # fmt: skip
        ax.set(xlabel="epoch", ylabel="test mAP of the moving average, %", ylim=(floor, 100))
    listed = ", ".join(f"{name} ends at {value:.1f}" for name, value in ends.items())
    return with_alt(figure, f"Test mAP of the moving average over epochs, in percent: {listed}.")


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
    mean = np.mean(curves, axis=0)
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


def draw_thresholds(scores: np.ndarray, targets: np.ndarray, threshold: float = 0.5) -> Figure:
    """CF1 and OF1 at every threshold, the one in use marked. scores, targets: (N, L)."""
    thresholds = np.linspace(0.02, 0.98, 49)
    values: dict[str, list[float]] = {"CF1": [], "OF1": []}
    for one in thresholds:
        result = precision_recall(scores, targets, threshold=float(one))
        for name, series in values.items():
            series.append(100 * np.nan_to_num(result[name]))
    used = precision_recall(scores, targets, threshold=threshold)
    best = int(np.argmax(values["OF1"]))
    with figure_style():
        figure, axes = make_figure(height=2.8, width=4.5)
        ax = axes[0, 0]
        for name, moved in (("CF1", 6), ("OF1", -6)):
            (line,) = ax.plot(thresholds, values[name])
            ax.annotate(
                name, (thresholds[24], values[name][24]), (4, moved), textcoords="offset points",
                color=line.get_color(), va="center",
            )  # fmt: skip
        ax.axvline(threshold, linestyle=":", color="black", linewidth=1)
        ax.set(xlabel="threshold (dotted: in use)", ylabel="F1, %", xlim=(0, 1), ylim=(0, 100))
        ax.set_title(f"best OF1 {values['OF1'][best]:.1f} at {thresholds[best]:.2f}; here {percent(used['OF1'])}")
    lost = values["OF1"][best] - 100 * np.nan_to_num(used["OF1"])
    return with_alt(
        figure,
        f"F1 over the threshold: OF1 is {percent(used['OF1'])} % at {threshold} and at best {values['OF1'][best]:.1f} % "
        f"at {thresholds[best]:.2f}, so the convention costs {max(0.0, lost):.1f} points.",
    )


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


def draw_comparison(
    rows: Mapping[str, float], *, metric: str = "mAP", published: Mapping[str, float] | None = None
) -> Figure:
    """One bar a row with its value written at its end; a published value is a thin dotted line. Values in 0..1."""
    published = published or {}
    best = max(rows, key=lambda name: rows[name])
    with figure_style():
        figure, axes = make_figure(height=0.42 * len(rows) + 0.9)
        ax = axes[0, 0]
        names = list(rows)
        values = [100 * rows[name] for name in names]
        ax.barh(range(len(names)), values, color=["C0" if name == best else "0.75" for name in names])
        for i, (name, value) in enumerate(zip(names, values, strict=True)):
            ax.annotate(f"{value:.1f}", (value, i), (3, 0), textcoords="offset points", va="center")
            if name in published:
                ax.plot([100 * published[name]] * 2, [i - 0.45, i + 0.45], ":", color="black", linewidth=1)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlim(0, 108)
        ax.set_xlabel(f"{metric}, %" + ("; dotted: published" if published else ""))
        ax.set_title(f"{best}: {metric} {percent(rows[best])}")
    listed = ", ".join(f"{name} {percent(value)}" for name, value in rows.items())
    return with_alt(figure, f"Bar chart of {metric} in percent: {listed}. {best} is highest.")


# --- Heatmaps ----------------------------------------------------------------------------------------------------


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
