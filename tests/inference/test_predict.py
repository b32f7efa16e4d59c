"""Protects `sgre predict`: the scores are those of `evaluate`, the three formats, heatmaps, photos that cannot be read, and
requests that are refused before anything is written."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sgre_lib import PreparedDataset, UserError, build_model, export_released, load_experiment, predict
from sgre_lib.base.config import read_config
from sgre_lib.commands import main
from sgre_lib.inference.predict import HEATMAP_LABELS, write_figure
from sgre_lib.inference.predictions import format_predictions

# --- Scores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "num_workers"), [(64, -1), (7, 2)])
def test_scores_are_those_of_evaluate(experiment, small_mini, batch_size, num_workers):
    paths = PreparedDataset(small_mini).split("test").paths
    found = predict(paths, experiment, batch_size=batch_size, num_workers=num_workers, progress=False)
    assert [one.image for one in found] == paths
    scores = np.stack([one.scores for one in found])
    np.testing.assert_allclose(scores, np.load(experiment / "scores.npy"), rtol=0, atol=1e-5)
    assert scores.dtype == np.float32


def test_labels_follow_threshold_and_topk(experiment, small_mini):
    path = PreparedDataset(small_mini).split("test").paths[0]
    labels = PreparedDataset(small_mini).labels
    (everything,) = predict(path, experiment, threshold=0, progress=False)
    assert everything.names == labels
    order = np.argsort(-everything.scores, kind="stable")
    assert everything.labels == [(labels[i], float(everything.scores[i])) for i in order]
    fifth = everything.labels[4][1]
    (above,) = predict([str(path)], experiment, threshold=fifth, progress=False)
    assert above.labels == everything.labels[:5]  # from the threshold on, the threshold included
    (best,) = predict([path], experiment, threshold=fifth, topk=2, progress=False)
    assert best.labels == everything.labels[:2]
    (none,) = predict([path], experiment, threshold=1, topk=2, progress=False)
    assert none.labels == []


def test_a_folder_of_the_authors_predicts(small_mini, photos, tmp_path):
    """config.yaml and a checkpoint under their names; labels and label embeddings are the dataset's."""
    folder = tmp_path / "authors"
    (folder / "checkpoints").mkdir(parents=True)
    config = {"data": str(small_mini), "arch": "resnet18", "embed_type": "minilm", "pos": True}
    torch.manual_seed(0)
    state = build_model({**config, "image_size": 64, "pretrained": False}).state_dict()
    torch.save(dict(export_released(state, "resnet18")), folder / "checkpoints" / "best_ema_model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "img_size": 64, "lr": "9e-05"}))
    found = predict(photos, folder, data=small_mini, progress=False)
    assert len(found) == 3
    model, _, _ = load_experiment(folder, data=small_mini)
    with Image.open(found[0].image) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))
    pixels = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        expected = model(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)).logits.sigmoid()[0]
    np.testing.assert_allclose(found[0].scores, expected.numpy(), atol=1e-5)


# --- Formats -----------------------------------------------------------------------------------------------------


def test_formats(experiment, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    predictions = predict("my photos", experiment, threshold=0.4, progress=False)
    assert any(one.labels for one in predictions)

    lines = format_predictions(predictions).splitlines()
    assert lines == [
        f"{one.image}\t" + ", ".join(f"{label} {score:.3f}" for label, score in one.labels) for one in predictions
    ]

    rows = list(csv.DictReader(io.StringIO(format_predictions(predictions, "csv"))))
    expected = [(str(one.image), label, score) for one in predictions for label, score in one.labels]
    assert [(row["image"], row["label"], np.float32(row["score"])) for row in rows] == expected

    content = json.loads(format_predictions(predictions, "json"))
    assert [one["image"] for one in content] == [str(one.image) for one in predictions]
    for stored, one in zip(content, predictions, strict=True):
        assert list(stored["scores"]) == one.names
        assert np.array_equal(np.float32(list(stored["scores"].values())), one.scores)
        assert [(row["label"], np.float32(row["score"])) for row in stored["labels"]] == one.labels

    with pytest.raises(UserError, match="--format yaml"):
        format_predictions(predictions, "yaml")


def test_the_command_says_what_the_library_says(experiment, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(photos.parent)
    options = ["--exp-dir", str(experiment), "--threshold", "0.4"]
    predictions = predict("my photos", experiment, threshold=0.4, progress=False)
    for form in ("text", "csv", "json"):
        assert main(["predict", "my photos", *options, "--format", form]) == 0
        assert capsys.readouterr().out == format_predictions(predictions, form)
    out = tmp_path / "labels.json"
    assert main(["predict", "my photos", *options, "--format", "json", "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == format_predictions(predictions, "json")
    assert capsys.readouterr().out == f"wrote {out}\n"


# --- Heatmaps ----------------------------------------------------------------------------------------------------


def test_one_figure_an_image(experiment, photos, tmp_path):
    (photos / "other").mkdir()
    shutil.copy(photos / "b.jpg", photos / "other" / "b.png")  # two photos of one name
    found = predict(photos, experiment, threshold=0, heatmaps=tmp_path / "new" / "figures", progress=False)
    figures = sorted(path.name for path in (tmp_path / "new" / "figures").iterdir())
    assert len(figures) == len(found) == 4
    assert {"a ü.heatmap.png", "猫 $1$.heatmap.png"} < set(figures)
    with Image.open(tmp_path / "new" / "figures" / "a ü.heatmap.png") as figure:
        said = figure.info["Description"]
    assert said.startswith("Alignment maps of a ü.JPG: ")
    assert said.count(" scores ") == HEATMAP_LABELS
    # The truth of somebody's own photo is not known.
    assert not any(word in said for word in ("hit", "missed", "false alarm"))


def test_a_photo_without_a_predicted_label_shows_its_best(experiment, photos, tmp_path):
    predict(photos / "b.jpg", experiment, threshold=1, heatmaps=tmp_path, progress=False)
    with Image.open(tmp_path / "b.heatmap.png") as figure:
        assert figure.info["Description"].count(" scores ") == 1


def test_figure_titles_judge_nothing(tmp_path):
    photo, maps = Image.new("RGB", (900, 30)), np.full((2, 2, 3), 1 / 6)
    figure = write_figure(tmp_path / "one.png", photo, maps, ["sun", "car"], [0.9, 0.2])
    assert [ax.get_title() for ax in figure.axes[:3]] == ["photo", "sun 0.90", "car 0.20"]


# --- What goes wrong ---------------------------------------------------------------------------------------------


def test_one_broken_photo_costs_only_itself(experiment, photos, capsys, tmp_path):
    whole = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "c.png").write_bytes(b"no picture at all")
    found = predict(photos, experiment, batch_size=1, heatmaps=tmp_path / "figures", progress=False)
    assert [one.error is None for one in found] == [True, False, False, True]
    assert "b.jpg cannot be read" in found[1].error
    assert found[1].labels == []
    assert np.isnan(found[1].scores).all()
    assert len(list((tmp_path / "figures").iterdir())) == 2
    assert len(format_predictions(found).splitlines()) == 2
    content = json.loads(format_predictions(found, "json"))
    assert [sorted(one) for one in content[:2]] == [["image", "labels", "scores"], ["error", "image"]]

    assert main(["predict", str(photos), "--exp-dir", str(experiment)]) == 2
    said = capsys.readouterr()
    assert said.out == format_predictions(found)
    last = said.err.splitlines()[-1]
    assert last.startswith("sgre: 2 of 4 images cannot be read: ")
    assert "b.jpg" in last
    assert "c.png" in last


def test_mistakes_write_nothing(experiment, photos, tmp_path, capsys, monkeypatch):
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty"
    broken.write_bytes(b"")
    empty.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    new = ["--out", "new.txt", "--heatmaps", "figures"]
    for arguments, message in (
        ([photos / "none.jpg", *new], "none.jpg is missing"),
        ([photos, photos / "none.jpg", *new], "none.jpg is missing"),
        (["", *new], "the image '' is missing"),
        ([empty, *new], "empty holds no image"),
        ([tmp_path / "*.tif", *new], "*.tif matches no image"),
        ([broken, *new], "broken.jpg cannot be read"),
        ([photos, *new, "--threshold", "1.5"], "--threshold 1.5"),
        ([photos, *new, "--topk", "0"], "--topk 0"),
        ([photos, *new, "--batch-size", "0"], "--batch-size 0"),
        ([photos, *new, "--device", "cuda:99"], "--device cuda:99"),
        ([photos, *new, "--format", "xml"], "invalid choice: 'xml'"),
        ([photos, *new, "--exp-dir", "nowhere"], "--exp-dir nowhere does not exist"),
        ([photos, "--heatmaps", broken / "x"], "is not a folder"),
        ([photos, "--out", tmp_path], "is a folder"),
        ([photos, "--out", "nowhere/new.txt"], "the folder does not exist"),
        ([*new], "IMAGE"),
    ):
        arguments = ["predict", "--exp-dir", str(experiment), *map(str, arguments)]
        assert main(arguments) == 2, arguments
        errors = capsys.readouterr().err
        assert len(errors.strip("\r\n ").split("\n")) == 1, errors
        assert message in errors.split("\r")[-1], errors
        assert list(work.iterdir()) == []


def test_heatmaps_need_a_model_that_aligns(experiment, photos, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("branches: both", "branches: patch"))
    checkpoint = copy / "checkpoints" / "best_ema_model.pth"
    torch.manual_seed(0)
    model = build_model(read_config(copy / "config.yaml").settings, pretrained=False, label_count=16)
    torch.save(model.state_dict(), checkpoint)
    assert len(predict(photos, copy, progress=False)) == 3
    with pytest.raises(UserError, match="branches: patch"):
        predict(photos, copy, heatmaps=tmp_path / "figures", progress=False)
    assert not (tmp_path / "figures").exists()
