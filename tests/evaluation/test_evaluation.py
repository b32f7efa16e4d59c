"""Protects evaluation and heatmaps: the files they write, their formats, the rule that picks images, bad requests."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sgre_lib import PreparedDataset, UserError, evaluate, evaluate_scores, load_experiment, visualize
from sgre_lib.heatmaps.photo_choice import choose_gallery, choose_images


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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda e: (e / "config.yaml").write_text("lr: !!python/object/apply:os.system ['exit']"), "not readable YAML"),
        (lambda e: (e / "config.yaml").write_text("- 1"), "not a list of settings"),
        (lambda e: (e / "config.yaml").write_text("lr: 1"), "does not say which data"),
        (lambda e: (e / "config.yaml").unlink(), "is not an experiment folder"),
        (lambda e: (e / "checkpoints/best_ema_model.pth").write_bytes(b"PK\x03\x04broken"), "cannot be read"),
        (lambda e: (e / "checkpoints/best_ema_model.pth").unlink(), "is missing"),
        (lambda e: (e / "label_embeddings.npy").write_bytes(b"no array"), "not a readable .npy"),
        (lambda e: np.save(e / "label_embeddings.npy", np.zeros((3, 4))), "3 rows, but there are 16 labels"),
    ],
)
def test_a_damaged_experiment_is_one_line(experiment, tmp_path, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    damage(copy)
    with pytest.raises(UserError, match=message):
        load_experiment(copy)


def test_numbers_written_as_text_are_read(experiment, tmp_path):
    """The authors' config.yaml has `lr: 9e-05`, which YAML reads as text, and entries that we do not know."""
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    text = (copy / "config.yaml").read_text().replace("lr: 0.001", "lr: 9e-05\nworld_size: 4")
    (copy / "config.yaml").write_text(text)
    _, settings, _ = load_experiment(copy)
    assert settings.lr == 9e-05


def test_heatmap_files(experiment, small_mini):
    (folder,) = visualize(experiment, images=["000046"], labels="sun,traffic light")
    assert folder == experiment / "visualization" / "000046"
    maps = np.load(folder / "alignment.npy")
    assert maps.shape == (16, 4, 4)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)
    about = json.loads((folder / "heatmap.json").read_text())
    assert [row["label"] for row in about["labels"]] == ["sun", "traffic light"]
    with Image.open(folder / "heatmap.png") as picture:
        assert picture.info["Description"] == about["alt_text"]
        assert picture.width > 400


def test_images_by_rule_make_a_gallery(experiment):
    folders = visualize(experiment, limit=4)
    assert len(set(folders)) == 4
    assert 1 <= len(choose_gallery(experiment)) <= 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"images": ["nothing"]}, "no test image"),
        ({"labels": "unicorn"}, "--labels unicorn"),
        ({"limit": 0}, "--limit 0"),
    ],
)
def test_bad_requests(experiment, request_, message):
    with pytest.raises(UserError, match=message):
        visualize(experiment, **request_)


def test_rule_takes_hits_false_alarms_and_misses_in_turn():
    scores = np.array([[0.9, 0.1], [0.2, 0.95], [0.3, 0.1], [0.8, 0.2]])
    targets = np.array([[1, 0], [0, 0], [1, 0], [1, 0]])
    chosen = choose_images(scores, targets, 4)
    assert chosen == [(0, "hit", 0), (1, "false alarm", 1), (2, "missed", 0), (3, "hit", 0)]
    assert len(choose_images(scores, targets, 9)) == 4


def test_the_latest_experiment_is_found_wherever_it_lies(experiment, small_mini, tmp_path, monkeypatch):
    from sgre_lib.model.experiment import latest_experiment

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run 03_train first"):
        latest_experiment()
    for name in ("mlic_mini/exp1", "results/table/row/experiment"):
        shutil.copytree(experiment, tmp_path / "experiments" / name, copy_function=shutil.copy)
    assert latest_experiment(small_mini) == tmp_path / "experiments/results/table/row/experiment"
