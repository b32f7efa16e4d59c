"""Protects the figures: they say what they find, their numbers are right, and no odd input breaks them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_results
from PIL import Image

from sgre_lib.evaluation.calibration import choose_thresholds, measure_reliability
from sgre_lib.evaluation.metrics import precision_recall
from sgre_lib.figures import (
    CostPoint,
    compare_with_cooccurrence,
    conditional_probability,
    draw_calibration,
    draw_comparison,
    draw_correlation,
    draw_cost,
    draw_failures,
    draw_label_ap,
    draw_precision_recall,
    draw_thresholds,
    save_figure,
)

# --- Label by label ---------------------------------------------------------------------------------------------------


def test_the_labels_with_the_largest_gaps_are_named():
    ours, baseline = np.array([0.9, 0.5, 0.7, 0.8]), np.array([0.6, 0.7, 0.7, 0.79])
    published = np.array([np.nan, 0.45, np.nan, 0.9])
    labels = ["cat", "dog", "fish", "bird"]
    alt = draw_label_ap(labels, {"ours": ours, "pooling": baseline}, published={"paper": published}).alt_text
    assert "ranges from 50.0 (dog) to 90.0 (cat)" in alt
    assert "above pooling for 2 of 4 labels, most for cat +30.0 and bird +1.0, below most for dog -20.0" in alt
    assert "above paper for 1 of 2 labels, most for dog +5.0, below most for bird -10.0" in alt


def test_a_model_sorts_the_labels_and_missing_values_are_counted():
    figure = draw_label_ap(["a", "b", "c"], {"ours": np.array([0.2, np.nan, 0.9]), "other": np.full(3, np.nan)})
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["c", "a", "b"]
    assert "mAP 55.0 over 2 labels" in figure.legends[0].get_texts()[0].get_text()
    assert "not comparable with other" in figure.alt_text


def test_of_many_labels_those_at_both_ends_are_shown():
    gaps = np.linspace(-0.2, 0.2, 500)
    figure = draw_label_ap([f"label {i}" for i in range(500)], {"ours": 0.5 + gaps, "other": np.full(500, 0.5)})
    shown = {int(text.get_text().split()[1]) for text in figure.axes[0].get_yticklabels()}
    assert shown == set(range(30)) | set(range(470, 500))
    assert "60 of 500 labels" in figure.axes[0].get_xlabel()


# --- Thresholds and calibration ---------------------------------------------------------------------------------------


def test_calibration_says_where_scores_are_furthest_off():
    scores = np.array([[0.05, 0.95], [0.15, 0.85], [0.1, 1.0]])
    alt = draw_calibration(measure_reliability(scores, np.array([[0, 1], [1, 0], [0, 1]]))).alt_text
    assert "between 0.8 and 0.9" in alt
    assert "too high" in alt


def test_thresholds_say_what_the_one_in_use_costs():
    scores = np.array([[0.3, 0.9], [0.2, 0.8], [0.1, 0.7], [0.05, 0.6]])
    targets = np.array([[1, 1], [1, 0], [0, 0], [0, 0]])
    choice = choose_thresholds(scores, targets)
    figure = draw_thresholds(choice, precision_recall(scores, targets))
    assert "OF1 is 28.6 % at 0.5" in figure.alt_text
    assert "100.0 % with the best one for each label" in figure.alt_text
    best = 100 * (choice.OF1.max() - 2 / 7)
    assert f"{best:.1f} of OF1" in figure.axes[0].get_title()


# --- Comparison and cost ----------------------------------------------------------------------------------------------


def test_a_row_may_carry_an_interval():
    rows = {"SGRE": 0.9, "pooling": 0.8, "not run": float("nan")}
    figure = draw_comparison(rows, published={"SGRE": 0.91}, intervals={"pooling": (0.75, 0.84)}, interval="2 seeds")
    assert "pooling 80.0 (75.0 to 84.0)" in figure.alt_text
    assert "SGRE is highest" in figure.alt_text
    assert "not run -" in figure.alt_text
    assert figure.axes[0].get_xlabel() == "mAP, %; line: 2 seeds; dotted: published"
    (line,) = (one for one in figure.axes[0].lines if one.get_marker() == "|")
    assert line.get_xdata() == pytest.approx([75, 84])
    assert set(line.get_ydata()) == {1}
    assert "In brackets" not in draw_comparison({"SGRE": 0.9}).alt_text


def test_cost_names_each_point_where_it_covers_no_other():
    points = [CostPoint(f"model {i}", 40 + i % 3, 0.85 + 0.004 * i, published=i % 2 == 0) for i in range(9)]
    points += [CostPoint("large", 900, 0.9, 0.89, 0.91), CostPoint("unknown", float("nan"), 0.9)]
    figure = draw_cost(points)
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert set(boxes) == {f"model {i}" + " (published)" * (i % 2 == 0) for i in range(9)} | {"large"}
    names = list(boxes)
    assert not any(boxes[a].overlaps(boxes[b]) for i, a in enumerate(names) for b in names[:i])
    assert "large is highest" in figure.alt_text
    assert "without a value: unknown" in figure.alt_text
    assert figure.axes[0].get_xscale() == "log"
    assert "no point" in draw_cost([]).alt_text


# --- Correlation and failures -----------------------------------------------------------------------------------------


def test_a_model_that_has_the_cooccurrence_is_seen_to_have_it():
    _, targets, _ = random_results(200, 6)
    targets[:, 1] |= targets[:, 0]
    learned = np.nan_to_num(conditional_probability(targets))
    assert compare_with_cooccurrence(2 * learned + 0.1, targets)[0] == pytest.approx(1)
    assert compare_with_cooccurrence(-learned, targets)[0] == pytest.approx(-1)
    figure = draw_correlation(list("abcdef"), learned / learned.sum(1, keepdims=True), targets)
    assert "given a" in figure.alt_text
    assert "largest share is b" in figure.alt_text


def test_frequency_alone_is_not_taken_for_cooccurrence():
    rng = np.random.default_rng(0)
    often = np.linspace(0.1, 0.8, 12)
    targets = (rng.random((500, 12)) < often).astype(np.uint8)
    learned = np.tile(often / often.sum(), (12, 1)) + 1e-4 * rng.random((12, 12))
    plain, relative = compare_with_cooccurrence(learned, targets)
    assert plain > 0.9
    assert abs(relative) < 0.3


def test_the_gallery_says_what_it_shows():
    photo = Image.new("RGB", (40, 30))
    figure = draw_failures([photo] * 2, ["cat", "a$b$"], [0.91, 0.08], ["false alarm", "missed"])
    assert figure.alt_text == "2 failures, chosen by rule: false alarm cat at 0.91; missed a$b$ at 0.08."
    assert figure.axes[0].get_xlabel() == "cat 0.91\nfalse alarm"
    assert "none" in draw_failures([], [], [], []).alt_text


# --- Whatever comes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "labels"), [(1, 1), (3, 1), (30, 120)])
def test_any_size_is_drawn(images, labels, tmp_path):
    scores, targets, ignore = random_results(images, labels)
    names = [f"label {i}" for i in range(labels)]
    correlation = np.full((labels, labels), 1 / labels)
    for number, figure in enumerate((
        draw_label_ap(names, {"ours": scores[0], "other": scores[-1]}),
        draw_thresholds(choose_thresholds(scores, targets, ignore), precision_recall(scores, targets, ignore)),
        draw_calibration(measure_reliability(scores, targets, ignore)),
        draw_precision_recall(scores, np.zeros_like(targets)),
        draw_correlation(names, correlation, targets),
    )):  # fmt: skip
        save_figure(figure, tmp_path / f"{number}.png", dpi=30)
        assert len(figure.alt_text) > 20
        assert "nan" not in figure.alt_text
