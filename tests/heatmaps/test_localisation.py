"""Protects how heatmaps are measured: boxes of every dataset in fractions, exact pointing and share, what is refused."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sgre_lib import PreparedDataset, UserError, localise, prepare
from sgre_lib.commands import main
from sgre_lib.datasets.boxes import add_box
from sgre_lib.datasets.inspection import inspect
from sgre_lib.figures import draw_boxed_maps, draw_localisation
from sgre_lib.heatmaps.maps import align
from sgre_lib.heatmaps.pointing_game import Localisation, Pair, cover_patches, measure_map, summarise_pairs
from sgre_lib.model.build import build_model
from sgre_lib.model.checkpoints import write_checkpoint
from sgre_lib.model.experiment import BEST, latest_experiment, load_experiment

# --- The measures --------------------------------------------------------------------------------------------------


def test_a_map_placed_by_hand():
    weights = np.array([[1, 2], [3, 14]])  # 5, 10, 15 and 70 %
    # The upper half of the lower right patch: its centre is on the edge, which is inside.
    found = measure_map(weights, np.array([[0.5, 0.5, 1, 0.75]]))
    assert found == pytest.approx(Localisation(1, 0.25, 1, 0.35, 0.125, 0.5))
    # A sliver at the left that holds no centre: half of both left patches.
    found = measure_map(weights, np.array([[0, 0, 0.2, 1]]))
    assert found == pytest.approx(Localisation(0, 0, 0, 0.4 * 0.2, 0.2, 0.4))


def test_boxes_of_a_label_count_as_their_union():
    weights = np.array([[0.0, 1.0, 0.0]])
    boxes = np.array([[0, 0, 0.5, 1], [1 / 3, 0, 0.5, 1], [0.9, 0, 1, 0.5]])
    found = measure_map(weights, boxes)
    assert found.share == pytest.approx(0.5)  # the middle patch ends at 2/3, the union at 1/2
    assert found.share_chance == pytest.approx(0.5 + 0.1 * 0.5)
    assert (found.pointing, found.pointing_chance) == (1, pytest.approx(2 / 3))


def test_scale_and_ties():
    """Maps need not sum to 1 (a class token takes its share); of several peaks the first counts."""
    boxes = np.array([[0, 0, 0.5, 0.5]])
    even = measure_map(np.full((4, 6), 0.001, np.float32), boxes)
    assert even.pointing == 1
    assert even.share == pytest.approx(even.share_chance) == pytest.approx(0.25)
    assert even.pointing_chance == pytest.approx(0.25)


@pytest.mark.parametrize("grid", [(1, 1), (4, 6), (14, 14)])
def test_covered_area_is_exact(grid):
    """Against counting the cells of a raster that all boxes and patches fit."""
    rng, fine = np.random.default_rng(0), 84
    for _ in range(20):
        corners = np.sort(rng.integers(0, fine + 1, (rng.integers(1, 6), 2, 2)), axis=1)
        corners = corners[(corners[:, 0] < corners[:, 1]).all(1)].reshape(-1, 4)
        raster = np.zeros((fine, fine))
        for x0, y0, x1, y1 in corners:
            raster[y0:y1, x0:x1] = 1
        height, width = grid
        expected = raster.reshape(height, fine // height, width, fine // width).mean((1, 3))
        np.testing.assert_allclose(cover_patches(corners / fine, grid), expected, atol=1e-12)


def test_averages_give_a_label_or_a_pair_one_vote():
    one, none = Localisation(1, 0.1, 1, 0.8, 0.2, 1), Localisation(0, 0.3, 1, 0.2, 0.4, 1)
    summary = summarise_pairs([Pair(0, 0, one), Pair(1, 0, one), Pair(2, 0, none), Pair(2, 2, none)], ["a", "b", "c"])
    assert summary["labels"]["a"]["pairs"] == 3
    assert summary["labels"]["a"]["pointing"] == pytest.approx(2 / 3)
    assert summary["mean_over_labels"]["pointing"] == pytest.approx(1 / 3)
    assert summary["mean_over_pairs"]["pointing"] == pytest.approx(1 / 2)
    assert summary["mean_over_labels"]["share_chance"] == pytest.approx((0.8 / 3 + 0.4) / 2)
    assert summary["labels_without_boxes"] == ["b"]


# --- Boxes in prepared folders ---------------------------------------------------------------------------------------


def test_a_box_is_cut_at_the_photo_and_left_out_where_nothing_is_left():
    boxes: dict = {}
    for corners in ((-5, 2, 10, 50), (25, 0, 30, 5), (3, 3, 3, 9), (float("nan"), 0, 1, 1), (1, 2, 3), ("x", 1, 2, 3)):
        add_box(boxes, "cat", corners, (20, 10))
    assert {label: list(flat) for label, flat in boxes.items()} == {"cat": [0, 0.2, 0.5, 1]}


def write_voc_photo(raw, name, objects, size):
    """objects: (label, difficult, box) each, the box as VOC has it: pixels from 1, inclusive, or no box."""
    Image.new("RGB", size).save(raw / "JPEGImages" / f"{name}.jpg")
    body = ""
    for label, difficult, box in objects:
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        body += f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"
    (raw / "Annotations" / f"{name}.xml").write_text(f"<annotation>{body}</annotation>")


@pytest.fixture
def voc(tmp_path):
    raw = tmp_path / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (raw / folder).mkdir(parents=True)
    write_voc_photo(raw, "a", [("cat", 0, (1, 1, 2, 2))], (8, 8))
    cats = [("cat", 0, (11, 1, 20, 5)), ("cat", 1, (1, 1, 2, 2)), ("Cat", 0, (1, 6, 5, 10))]
    write_voc_photo(raw, "b", [*cats, ("dog", 1, (1, 1, 20, 10))], (20, 10))
    write_voc_photo(raw, "c", [("dog", 0, ("?", 1, 2, 2))], (20, 10))
    (raw / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    (raw / "ImageSets" / "Main" / "test.txt").write_text("b\nc\n")
    return tmp_path


def test_boxes_of_voc_are_fractions_and_follow_the_difficult_rule(voc):
    prepared = prepare("voc2007", data_root=voc, out=voc / "out", progress=False)
    first, second = prepared.boxes("test")
    assert list(first) == [prepared.labels.index("cat")]  # the dog is difficult
    assert first[prepared.labels.index("cat")].tolist() == [[0.5, 0, 1, 0.5], [0, 0.5, 0.25, 1]]
    assert second == {}  # its box is not one
    (line,) = (voc / "out" / "test_boxes.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == "VOC2007/JPEGImages/b.jpg"
    assert prepared.boxes("train") is None


def test_boxes_of_coco_leave_crowds_out(tmp_path):
    raw = tmp_path / "MSCOCO"
    for split, names in (("train2014", ["t.jpg"]), ("val2014", ["gone.jpg", "v.jpg", "w.jpg"])):
        (raw / split).mkdir(parents=True)
        (raw / "annotations").mkdir(exist_ok=True)
        for name in names[-2:]:
            (raw / split / name).touch()
        boxes = [
            (18, [100, 50, 200, 25]),
            (18, [390, 190, 50, 50]),
            (1, [0, 0, 400, 200], 1),
            (1, None),
            (1, ["x"] * 4),
        ]
        annotations = [
            {"image_id": number, "category_id": box[0], "bbox": box[1], "iscrowd": len(box) - 2}
            for number in range(len(names))
            for box in boxes
        ]
        content = {
            "images": [{"id": n, "file_name": name, "width": 400, "height": 200} for n, name in enumerate(names)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        }
        del content["images"][-1]["width"]  # the last photo's size is not known
        (raw / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    prepared = prepare("mscoco", data_root=tmp_path, out=tmp_path / "out", skip_missing=True, progress=False)
    names, targets = prepared.read_list("test")
    assert [name[-5:] for name in names] == ["v.jpg", "w.jpg"]
    assert targets.tolist() == [[1, 1], [1, 1]]
    first, second = prepared.boxes("test")
    assert {label: boxes.tolist() for label, boxes in first.items()} == {
        1: [[0.25, 0.25, 0.75, 0.375], [0.975, 0.95, 1, 1]]
    }
    assert second == {}


def test_boxes_of_visual_genome_are_those_of_the_recovered_names(tmp_path):
    raw = tmp_path / "VisualGenome"
    (raw / "ssgrl_partition").mkdir(parents=True)
    (raw / "VG_100K").mkdir()
    thing = {"x": 10, "y": 0, "w": 30, "h": 20}
    objects = [
        {"image_id": 1, "objects": [{"names": ["sky"]}, {"names": ["dog"]}]},
        {"image_id": 2, "objects": [{"names": ["Blue  SKY", "sky "], **thing}, {"names": ["dog"], **thing},
                                    {"names": ["lamp"], **thing}, {"names": ["sky"], "x": 1}]},
        {"image_id": 3, "objects": [{"names": ["dog"], **thing}]},
    ]  # fmt: skip
    (raw / "objects.json").write_text(json.dumps(objects))
    # Image 2 shows a dog that its label indices do not have.
    indices = {"1.jpg": [0, 1], "2.jpg": [0], "3.jpg": [1]}
    (raw / "ssgrl_partition" / "vg_category_500_labels_index.json").write_text(json.dumps(indices))
    (raw / "ssgrl_partition" / "train_list_500.txt").write_text("1.jpg\n")
    (raw / "ssgrl_partition" / "test_list_500.txt").write_text("2.jpg\n3.jpg\n")
    for number, size in ((1, (8, 8)), (2, (100, 40))):
        Image.new("RGB", size).save(raw / "VG_100K" / f"{number}.jpg")
    (raw / "VG_100K" / "3.jpg").touch()  # cut off: its size is not known
    prepared = prepare("vg500", data_root=tmp_path, out=tmp_path / "out", progress=False)
    first, second = prepared.boxes("test")
    assert {prepared.labels[label]: boxes.tolist() for label, boxes in first.items()} == {"sky": [[0.1, 0, 0.4, 0.5]]}
    assert second == {}


def test_boxes_of_mini_are_those_of_its_drawn_objects(small_mini):
    from sgre_lib.mini.scenes import compose_scene

    prepared = PreparedDataset(small_mini)
    names, targets = prepared.read_list("test")
    boxes = prepared.boxes("test")
    assert len(boxes) == len(names) == 20
    for name, of_image, present in zip(names, boxes, targets, strict=True):
        _, objects = compose_scene(0, int(name[-10:-4]), 64)
        expected: dict[int, list] = {}
        for item in objects:
            if not item.difficult:
                xmin, ymin, xmax, ymax = item.box
                corners = [(xmin - 1) / 64, (ymin - 1) / 64, xmax / 64, ymax / 64]
                expected.setdefault(prepared.labels.index(item.label), []).append(corners)
        assert of_image.keys() == expected.keys() == set(np.flatnonzero(present))
        for label, corners in expected.items():
            np.testing.assert_allclose(of_image[label], corners, atol=5e-5)


def test_a_folder_without_boxes_is_as_good_as_before(small_mini, tmp_path):
    shutil.copytree(small_mini, tmp_path / "own")
    before = PreparedDataset(small_mini).fingerprint()
    (tmp_path / "own" / "test_boxes.jsonl").unlink()
    assert PreparedDataset(tmp_path / "own").boxes("test") is None
    assert PreparedDataset(tmp_path / "own").fingerprint() == before


def test_boxes_of_another_dataset_are_set_aside(voc):
    out = prepare("voc2007", data_root=voc, out=voc / "out", progress=False).folder
    (voc / "VOC2007" / "Annotations" / "b.xml").write_text("<a><object><name>cat</name></object></a>")
    assert prepare("voc2007", data_root=voc, out=out, progress=False).boxes("test") is None
    assert (out / "test_boxes.jsonl.previous").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "b.jpg"', "is not {"),
        ('{"image": "b.jpg"}', "is not {"),
        ('{"image": ["b.jpg"], "boxes": {}}', "is not {"),
        ("[]", "is not {"),
        ('{"image": "z.jpg", "boxes": {}}', "z.jpg is not in the list"),
        ('{"image": "a.jpg", "boxes": {}}', "a.jpg is there twice"),
        ('{"image": "b.jpg", "boxes": {"cow": [[0, 0, 1, 1]]}}', "'cow' is not in label.txt"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0, 0, 1]]}}', "cat has a box that is not four fractions"),
        ('{"image": "b.jpg", "boxes": {"cat": [0, 0, 1, 1]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0, 0, 1, 20]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0.5, 0, 0.5, 1]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [[0, 0, 1, NaN]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": [["x", 0, 1, 1]]}}', "cat has a box"),
        ('{"image": "b.jpg", "boxes": {"cat": []}}', "cat has a box"),
    ],
)
def test_wrong_boxes_are_named_with_file_and_line(tmp_path, line, message):
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "label.txt").write_text("cat\n")
    (tmp_path / "train.txt").write_text("a.jpg\tcat\n")
    (tmp_path / "test.txt").write_text("a.jpg\tcat\nb.jpg\tcat\n")
    path = tmp_path / "test_boxes.jsonl"
    path.write_text('{"image": "a.jpg", "boxes": {"cat": [[0, 0, 1, 0.5]]}}\n' + line)
    with pytest.raises(UserError) as caught:
        PreparedDataset(tmp_path).boxes("test")
    assert str(caught.value).startswith(f"{path} line 2")
    assert message in str(caught.value)
    assert "unreadable boxes" in inspect(tmp_path, progress=False).text()


# --- A whole experiment ----------------------------------------------------------------------------------------------


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


def test_the_latest_experiment_of_a_kind(copy, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    assert latest_experiment(keep=lambda settings: settings.model == "mlic") == copy
    with pytest.raises(UserError, match="of the kind asked for"):
        latest_experiment(keep=lambda settings: settings.model == "gap")


# --- Figures ---------------------------------------------------------------------------------------------------------


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
