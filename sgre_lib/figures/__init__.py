"""Figures: functions from data to a matplotlib `Figure`, in one style, each with its finding as alt text.

`figure.alt_text` is what a person who cannot see the picture should know. Nothing here reads files or draws on a screen.
"""

from .comparison import draw_comparison
from .correlation import compare_with_cooccurrence, draw_correlation, draw_shares
from .cost import CostPoint, draw_cost
from .dataset import conditional_probability, draw_cooccurrence, draw_label_counts, draw_photos, draw_similarity
from .heatmap import describe_place, draw_boxed_maps, draw_failures, draw_heatmap, draw_position_map, judge
from .per_label import draw_label_ap, draw_localisation
from .style import percent, save_figure
from .thresholds import draw_calibration, draw_precision_recall, draw_thresholds
from .training import draw_histories, draw_history
