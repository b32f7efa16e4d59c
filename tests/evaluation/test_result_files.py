"""Protects what an evaluation leaves in an experiment folder: its files, their formats, and reading them back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from sgre_lib import PreparedDataset, UserError, evaluate, evaluate_scores
from sgre_lib.evaluation.result_files import read_scores


def test_result_files(experiment, small_mini):
    prepared = PreparedDataset(small_mini)
    scores, targets = np.load(experiment / "scores.npy"), np.load(experiment / "targets.npy")
    assert scores.shape == targets.shape == (20, 16)
    assert np.array_equal(targets, prepared.split("test").targets)
    ignore = np.load(experiment / "ignore.npy") if (experiment / "ignore.npy").exists() else None
    expected = evaluate_scores(scores, targets, ignore)
    stored = json.loads((experiment / "result.json").read_text())
    assert stored["mAP"] == pytest.approx(expected["mAP"], rel=1e-12)
    assert stored["AP"]["sun"] == pytest.approx(expected["AP"][prepared.labels.index("sun")], rel=1e-12)
    assert {"threshold", "topk", "data_fingerprint", "versions", "device", "never_predicted"} <= set(stored)
    lines = [line.split("\t") for line in (experiment / "result.txt").read_text().splitlines()]
    assert lines[0] == ["mAP", f"{expected['mAP']:.3f}"]
    assert [name for name, _ in lines[-16:]] == prepared.labels
    predictions = [line.split("\t") for line in (experiment / "prediction.txt").read_text().splitlines()]
    assert [name for name, _ in predictions] == prepared.split("test").names
    best = [prepared.labels[i] for i in np.argsort(-scores[0], kind="stable")[:3]]
    assert predictions[0][1].split(",") == best


def test_scores_are_read_back_as_they_were_written(experiment, tmp_path):
    scores, targets, ignore = read_scores(experiment)
    assert scores.shape == targets.shape == (20, 16)
    assert ignore is None or ignore.shape == scores.shape
    with pytest.raises(UserError, match="evaluate it first"):
        read_scores(tmp_path)


def test_an_experiment_stays_usable_without_its_training_lists(experiment, small_mini, tmp_path):
    """Labels and label embeddings are the experiment's own copies; the test photos are found under another folder."""
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    metrics = evaluate(copy, data=small_mini, topk=1, threshold=0.3, num_workers=0, progress=False)
    assert "top1_OF1" in metrics
    assert json.loads((copy / "result.json").read_text())["threshold"] == 0.3


def test_other_labels_are_refused(experiment, small_mini, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(small_mini, other)
    (other / "label.txt").write_text("\n".join(reversed((other / "label.txt").read_text().split())) + "\n")
    with pytest.raises(UserError, match=r"other labels|is not in"):
        evaluate(experiment, data=other, num_workers=0, progress=False)
