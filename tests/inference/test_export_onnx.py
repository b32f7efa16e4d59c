"""Protects `sgre export`: the ONNX file computes in onnxruntime what PyTorch computes, at any batch size; its metadata are
enough to use it; a file that differs, or that cannot be made, is not written."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from sgre_lib import PreparedDataset, UserError, export_onnx, load_experiment, train
from sgre_lib.commands import main
from sgre_lib.inference import export_onnx as export_module
from sgre_lib.inference.export_onnx import ExportMismatch, OnnxModel, compare, read_metadata, trace
from sgre_lib.model import attention as attention_module

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

KINDS = {
    "fixed label embeddings": {"embed_type": "minilm", "pos": True},
    "trained label embeddings": {"embed_type": "random", "num_layers": 2, "normalize_before": True},
    "gap baseline": {"model": "gap", "embed_type": "random"},
    "patch branch": {"branches": "patch", "embed_type": "random", "orid_norm": True},
    "vit with class token": {
        "arch": "test_vit", "embed_type": "random", "output_stride": None, "image_size": 160, "num_heads": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def experiments(small_mini, tmp_path_factory):
    """The experiment folder of a kind, trained for one epoch when first asked for."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("exported") / "exp"
            settings = {**TINY, "epochs": 1, **KINDS[kind]}
            train(data=str(small_mini), exp_dir=str(made[kind]), progress=False, **settings)
        return made[kind]

    return make


def run_onnx(path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


@pytest.mark.parametrize("kind", list(KINDS))
def test_onnxruntime_gives_pytorchs_outputs(experiments, kind, tmp_path):
    model, settings, labels = load_experiment(experiments(kind))
    path = export_onnx(experiments(kind), tmp_path / "model.onnx")
    height, width = model.head.grid
    side = settings.image_size
    for count in (1, 3):
        images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            expected = model(images)
        outputs = run_onnx(path, images.numpy())
        assert outputs["scores"].shape == (count, len(labels))
        np.testing.assert_allclose(outputs["scores"], expected.logits.sigmoid(), rtol=0, atol=1e-4)
        assert ("alignment" in outputs) == (kind != "patch branch")
        if "alignment" in outputs:
            assert outputs["alignment"].shape == (count, len(labels), height, width)
            maps = expected.alignment[:, :, -height * width :].reshape(count, len(labels), height, width)
            np.testing.assert_allclose(outputs["alignment"], maps, rtol=0, atol=1e-4)


def test_metadata_are_enough_to_score_a_photo(experiment, small_mini, tmp_path):
    """A person who has nothing but the file, Pillow and numpy gets the scores of `evaluate`."""
    path = export_onnx(experiment, tmp_path / "model.onnx")
    about = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    side, mean, std = (json.loads(about[key]) for key in ("image_size", "mean", "std"))
    split = PreparedDataset(small_mini).split("test")
    images = []
    for photo in split.paths:
        with Image.open(photo) as image:
            pixels = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        images.append(((pixels - mean) / std).transpose(2, 0, 1))
    scores = run_onnx(path, np.float32(images))["scores"]
    np.testing.assert_allclose(scores, np.load(experiment / "scores.npy"), rtol=0, atol=1e-4)
    assert json.loads(about["labels"]) == PreparedDataset(small_mini).labels
    assert json.loads(about["grid"]) == [4, 4]
    assert (about["model"], about["arch"], about["data"]) == ("mlic", "test_resnet", "mini")
    assert about["experiment"] == "/".join(experiment.parts[-2:])
    assert all(value <= 1e-4 for value in json.loads(about["max_difference_from_pytorch"]).values())


def test_metadata_say_when_photos_are_not_normalised(experiments, tmp_path):
    about = read_metadata(export_onnx(experiments("patch branch"), tmp_path / "model.onnx"))
    assert (json.loads(about["mean"]), json.loads(about["std"])) == ([0, 0, 0], [1, 1, 1])


def test_many_labels_are_taken_in_groups(experiment, tmp_path, monkeypatch):
    """The graph holds the large tensor of the attention for a few labels at a time: 3 of 16 here."""
    monkeypatch.setattr(attention_module, "EXPORT_BYTES", 3 * 4 * 16 * attention_module.ATTENTION_SIZE)
    import onnx

    path = export_onnx(experiment, tmp_path / "model.onnx")  # compared with PyTorch there
    count = sum(node.op_type == "Tanh" for node in onnx.load(str(path)).graph.node)
    assert count == 6


def test_another_image_size(experiment, experiments, tmp_path):
    path = export_onnx(experiment, tmp_path / "model.onnx", image_size=96)
    assert run_onnx(path, np.zeros((2, 3, 96, 96), np.float32))["alignment"].shape == (2, 16, 6, 6)
    about = read_metadata(path)
    assert (about["image_size"], about["trained_image_size"]) == ("96", "64")
    with pytest.raises(UserError, match=r"pos_embed .* was trained for images of 160 x 160"):
        export_onnx(experiments("vit with class token"), tmp_path / "vit.onnx", image_size=192)
    assert not (tmp_path / "vit.onnx").exists()


@pytest.mark.parametrize("opset", [14, 20])
def test_operator_sets(experiment, tmp_path, opset):
    import onnx

    path = export_onnx(experiment, tmp_path / "model.onnx", opset=opset)
    assert onnx.load(str(path)).opset_import[0].version == opset


def test_a_file_that_differs_is_not_written(experiment, tmp_path, monkeypatch, capsys):
    """The command says so in a line, with status 1: it is no mistake of the user's. A NaN is a difference too."""
    model = OnnxModel(load_experiment(experiment)[0]).eval()
    graph = trace(model, 64, opset=17)
    with pytest.raises(ExportMismatch, match="scores nan"):
        compare(graph, lambda images: tuple(output * torch.nan for output in model(images)), 64)
    with pytest.raises(ExportMismatch, match=r"has shape \(1, 16\), PyTorch's \(1, 15\)"):
        compare(graph, lambda images: tuple(output[:, 1:] for output in model(images)), 64)

    monkeypatch.setattr(export_module, "TOLERANCE", 1e-30)
    old = tmp_path / "model.onnx"
    old.write_bytes(b"an older file")
    assert main(["export", "--exp-dir", str(experiment), "--out", str(old)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("sgre: the ONNX graph differs from PyTorch by more than 1e-30 (scores ")
    assert len(errors.splitlines()) == 1
    assert old.read_bytes() == b"an older file"
    assert list(tmp_path.iterdir()) == [old]


def test_the_command_says_what_it_wrote(experiment, tmp_path, capsys):
    assert main(["export", "--exp-dir", str(experiment), "--out", str(tmp_path / "model.onnx")]) == 0
    said = capsys.readouterr()
    assert "images (N, 3, 64, 64), scores (N, 16); largest difference from PyTorch: scores " in said.out
    assert said.err == ""


def test_without_onnxruntime_the_file_says_that_it_was_not_compared(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", "--exp-dir", str(experiment), "--out", str(tmp_path / "model.onnx")]) == 0
    assert "not compared with PyTorch" in capsys.readouterr().out
    assert read_metadata(tmp_path / "model.onnx")["max_difference_from_pytorch"] == "not compared"


def test_mistakes_are_one_line_and_write_nothing(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(message, *arguments):
        assert main(["export", "--exp-dir", str(experiment), *arguments]) == 2
        errors = capsys.readouterr().err
        assert len(errors.splitlines()) == 1
        assert message in errors
        assert list(tmp_path.iterdir()) == []

    refused("--out")
    refused("--out . is a folder", "--out", ".")
    refused("the folder does not exist", "--out", "nowhere/model.onnx")
    refused("--opset 21 is not between 14 and 20", "--out", "model.onnx", "--opset", "21")
    refused("--image-size 4 is below 8", "--out", "model.onnx", "--image-size", "4")
    refused("--exp-dir nowhere does not exist", "--out", "model.onnx", "--exp-dir", "nowhere")
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused("needs the package onnx: pip install", "--out", "model.onnx")
