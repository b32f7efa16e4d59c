"""Protects the figures of localisation: they say their finding, and stay legible with hundreds of labels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sgre_lib.figures import draw_boxed_maps, draw_localisation


def test_figures_say_their_finding():
    labels = ["cat", "dog", "cow"]
    found = {"SGRE": np.array([0.5, 0.1, np.nan]), "baseline": np.array([0.4, 0.6, np.nan])}
    figure = draw_localisation(labels, found, np.array([0.2, 0.2, np.nan]), "pointing")
    assert "SGRE 30.0, baseline 50.0, chance 20.0" in figure.alt_text
    assert "above chance for 1 of 2 labels, below for dog" in figure.alt_text
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["cat", "dog"]
    many = [f"label {number}" for number in range(300)]
    figure = draw_localisation(many, {"SGRE": np.linspace(0, 1, 300)}, np.full(300, 0.1))
    assert len(figure.axes[0].get_yticklabels()) == 60
    panel = (Image.new("RGB", (40, 20)), np.eye(2), np.array([[0, 0, 0.5, 1.0]]), "cat 0.90")
    figure = draw_boxed_maps(*zip(panel, panel, strict=True))
    assert "cat 0.90, peak at the top left" in figure.alt_text
