"""Protects `sgre localise`: its files and numbers agree with maps measured by hand, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from sgre_lib import PreparedDataset, UserError, localise
from sgre_lib.commands import main
from sgre_lib.heatmaps.maps import align
from sgre_lib.heatmaps.pointing_game import Localisation, measure_map
from sgre_lib.model.build import build_model
from sgre_lib.model.checkpoints import write_checkpoint
from sgre_lib.model.experiment import BEST, load_experiment


@pytest.fixture
def copy(experiment, tmp_path):
    """The experiment, to write into."""
    target = tmp_path / "experiments" / "exp"
    shutil.copytree(experiment, target)
    return target


def test_files_table_and_numbers_agree(copy, small_mini, capsys):
    assert main(["localise", "--exp-dir", str(copy), "--num-workers", "0", "--batch-size", "7", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    result = json.loads((copy / "localisation.json").read_text())
    assert f"{100 * result['mean_over_labels']['pointing']:.1f}" in shown
    assert result["data_fingerprint"] == PreparedDataset(small_mini).fingerprint()
    with open(copy / "localisation_pairs.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    prepared = PreparedDataset(small_mini)
    split, boxes = prepared.split("test"), prepared.boxes("test")
    assert len(pairs) == result["pairs"] == sum(map(len, boxes)) == split.targets.sum()
    with open(copy / "localisation.csv", newline="") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(result["labels"])
    for label, row in rows.items():
        of_label = [pair for pair in pairs if pair["label"] == label]
        assert int(row["pairs"]) == len(of_label)
        for name in Localisation._fields:
            assert float(row[name]) == pytest.approx(np.mean([float(pair[name]) for pair in of_label]), abs=1e-4)
    # One pair followed by hand, from the photo.
    model, settings, labels = load_experiment(copy)
    last = pairs[-1]
    image, label = split.names.index(last["image"]), labels.index(last["label"])
    _, maps = align(model, settings, [split.paths[image]], torch.device("cpu"))
    found = measure_map(maps[0, label], boxes[image][label])
    assert found == pytest.approx([float(last[name]) for name in Localisation._fields], abs=1e-4)


def test_limit_looks_at_the_first_images(copy):
    whole = localise(copy, num_workers=0, device="cpu", progress=False)
    few = localise(copy, limit=5, num_workers=0, device="cpu", progress=False)
    assert few["images"] == 5
    assert few["pairs"] < whole["pairs"]


def test_images_without_boxes_and_labels_that_are_not_there_do_not_count(copy, small_mini, tmp_path):
    data = tmp_path / "mini"
    shutil.copytree(small_mini, data)
    localise(copy, data=data, num_workers=0, device="cpu", progress=False)
    _, *rest = (copy / "localisation_pairs.csv").read_text().splitlines()
    _, second, *others = (data / "test_boxes.jsonl").read_text().splitlines()
    labels, (_, row, *_) = PreparedDataset(data).labels, PreparedDataset(data).read_list("test")[1]
    changed = json.loads(second)
    changed["boxes"][labels[int(row.argmin())]] = [[0, 0, 1, 1]]
    (data / "test_boxes.jsonl").write_text("\n".join([json.dumps(changed), *others]))
    result = localise(copy, data=data, num_workers=0, device="cpu", progress=False)
    assert (result["images"], result["images_with_boxes"]) == (20, 19)
    first_image = PreparedDataset(data).read_list("test")[0][0]
    _, *now = (copy / "localisation_pairs.csv").read_text().splitlines()
    assert now == [line for line in rest if not line.startswith(first_image)]


def test_class_activation_maps_of_the_baseline(copy, small_mini):
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("model: mlic", "model: gap"))
    _write_weights(copy)
    result = localise(copy, num_workers=0, device="cpu", progress=False)
    assert result["map"] == "class activation map"
    assert result["grid"] == [4, 4]


def _write_weights(folder) -> None:
    """Replace the weights of an experiment by untrained ones of the model that its settings now describe."""
    from sgre_lib.base.config import read_config

    model = build_model(read_config(folder / "config.yaml").settings, pretrained=False, label_count=16)
    write_checkpoint(folder / BEST, model.state_dict())


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (None, {"limit": 0}, "--limit 0"),
        (None, {"batch_size": 0}, "--batch-size"),
        (lambda exp, data: (data / "test_boxes.jsonl").unlink(), {}, "no test_boxes.jsonl: sgre prepare --data mini"),
        (lambda exp, data: (data / "test_boxes.jsonl").write_text(""), {}, "none of the 20 test images"),
        (lambda exp, data: _lose_object_branch(exp), {}, "no object branch"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_writes_nothing(copy, small_mini, tmp_path, damage, options, message):
    data = tmp_path / "mini"
    shutil.copytree(small_mini, data)
    if damage:
        damage(copy, data)
    with pytest.raises(UserError, match=message):
        localise(copy, data=data, num_workers=0, device="cpu", progress=False, **options)
    assert not list(copy.glob("localisation*"))


def _lose_object_branch(folder) -> None:
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("branches: both", "branches: patch"))
    _write_weights(folder)


def test_a_mistake_at_the_shell_is_status_2(capsys):
    assert main(["localise", "--exp-dir", "nowhere"]) == 2
    assert capsys.readouterr().err == "sgre: --exp-dir nowhere does not exist\n"
