"""Figures: functions from data to a matplotlib `Figure`, in one style, each with its finding as alt text.

`figure.alt_text` is what a person who cannot see the picture should know. Nothing here reads files or draws on a screen.
"""

from __future__ import annotations

from .attention import (
    compare_with_cooccurrence,
    describe_place,
    draw_correlation,
    draw_failures,
    draw_heatmap,
    draw_position_map,
    draw_shares,
    judge,
)
from .dataset import conditional_probability, draw_cooccurrence, draw_label_counts, draw_photos, draw_similarity
from .localisation import draw_boxed_maps, draw_localisation
from .results import (
    CostPoint,
    draw_calibration,
    draw_comparison,
    draw_cost,
    draw_label_ap,
    draw_precision_recall,
    draw_thresholds,
)
from .style import GREY, WIDTH, figure_style, make_figure, percent, save_figure, with_alt
from .training import draw_histories, draw_history

__all__ = [
    "GREY",
    "WIDTH",
    "CostPoint",
    "compare_with_cooccurrence",
    "conditional_probability",
    "describe_place",
    "draw_boxed_maps",
    "draw_calibration",
    "draw_comparison",
    "draw_cooccurrence",
    "draw_correlation",
    "draw_cost",
    "draw_failures",
    "draw_heatmap",
    "draw_histories",
    "draw_history",
    "draw_label_ap",
    "draw_label_counts",
    "draw_localisation",
    "draw_photos",
    "draw_position_map",
    "draw_precision_recall",
    "draw_shares",
    "draw_similarity",
    "draw_thresholds",
    "figure_style",
    "judge",
    "make_figure",
    "percent",
    "save_figure",
    "with_alt",
]
