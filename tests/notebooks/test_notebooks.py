"""Protects the notebooks: each runs through papermill with small parameters, and their sources keep the house rules."""

from __future__ import annotations

import json
import shutil

import nbformat
import numpy as np
import papermill
import pytest
from conftest import ROOT
from lint_notebooks import check_notebook_sources

from sgre_lib.base.settings import TrainSettings
from sgre_lib.tables.declaration import read_table
from sgre_lib.tables.notebooks import notebook_parameters, split_parameters
from sgre_lib.tables.run_folder import run_folder

NOTEBOOKS = ROOT / "notebooks"
SMALL = {"arch": "test_resnet", "image_size": 64}


def run(name: str, parameters: dict, folder) -> nbformat.NotebookNode:
    """Execute a notebook as the command line does: in its own folder, with JSON parameters that it knows."""
    assert set(parameters) <= set(notebook_parameters(name))
    out = folder / f"{name}.ipynb"
    papermill.execute_notebook(
        str(NOTEBOOKS / f"{name}.ipynb"), str(out), parameters=json.loads(json.dumps(parameters)),
        cwd=str(NOTEBOOKS), kernel_name="python3", progress_bar=False, coalesce_streams=True,
    )  # fmt: skip
    return nbformat.read(out, as_version=4)


def pictures(notebook) -> list[dict]:
    """Metadata of every picture that the notebook shows."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.metadata["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def test_sources():
    assert check_notebook_sources(NOTEBOOKS) == []


def test_every_notebook_is_introduced():
    text = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert all(path.name in text for path in NOTEBOOKS.glob("*.ipynb"))


def test_the_training_notebook_takes_every_setting():
    names = set(vars(TrainSettings()))
    own = set(notebook_parameters("03_train")) - {"more_settings", "machine", "exp_dir", "resume"}
    assert own <= names
    split = split_parameters({"lr": 0.1, "tau": 0.5})
    assert (split["lr"], split["more_settings"]) == (0.1, {"tau": 0.5})
    # What is not declared is the library's default, not the notebook's example.
    assert (split["image_size"], split["backbone_weights"], split["augment"]) == (448, None, "full")
    assert "exp_dir" not in split


def test_tour(small_mini, tmp_path):
    notebook = run(
        "00_tour", {"data": str(small_mini), "epochs": 1, "exp_dir": str(tmp_path / "exp"), **SMALL}, tmp_path
    )
    assert (tmp_path / "exp" / "result.json").exists()
    assert len(pictures(notebook)) >= 5
    assert all(picture["alt"] for picture in pictures(notebook))


def test_prepare(data_root, tmp_path):
    run("01_prepare_datasets", {"data_root": str(data_root), "out": str(tmp_path / "mini")}, tmp_path)
    assert (tmp_path / "mini" / "label_cooccurrence.png").exists()


def test_build(small_mini, experiment, tmp_path):
    run("02_build_model", {"data": str(small_mini), "exp_dir": str(experiment), "output_stride": 16, **SMALL}, tmp_path)


def test_train_evaluate_visualize(small_mini, tmp_path):
    exp_dir = str(tmp_path / "exp")
    parameters = {
        "data": str(small_mini), "epochs": 1, "batch_size": 8, "exp_dir": exp_dir,
        "backbone_weights": str(small_mini / "test_resnet.pth"), **SMALL, "machine": {"num_workers": 0},
        "more_settings": {"tau": 0.9},
    }  # fmt: skip
    run("03_train", parameters, tmp_path)
    assert (tmp_path / "exp" / "history.png").exists()
    run("04_evaluate", {"exp_dir": exp_dir, "topk": 2}, tmp_path)
    assert "top2_CF1" in json.loads((tmp_path / "exp" / "result.json").read_text())
    run("05_visualize_heatmaps", {"exp_dir": exp_dir, "limit": 3}, tmp_path)
    assert (tmp_path / "exp" / "visualization" / "index.json").exists()


def test_heatmap_study(experiment, tmp_path):
    folder = tmp_path / "exp"
    shutil.copytree(experiment, folder)
    notebook = run("11_heatmap_study", {"exp_dir": str(folder), "baseline_dir": str(folder), "limit": 12}, tmp_path)
    assert json.loads((folder / "localisation.json").read_text())["images"] == 12
    assert (folder / "localisation_pointing.png").exists()
    assert len(pictures(notebook)) == 4
    assert all(picture["alt"] for picture in pictures(notebook))


def test_the_report_notebook_on_a_table_that_has_not_run(tmp_path):
    """A table whose rows do not declare the same parameters."""
    table = tmp_path / "fresh.toml"
    shutil.copy(ROOT / "experiments" / "tables" / "mscoco.toml", table)
    parameters = {"table": str(table), "scale": "mini", "results": str(tmp_path / "results"), "run": False}
    notebook = run("20_reproduce_tables", parameters, tmp_path)
    text = json.dumps(notebook)
    assert "not run" in text


def test_ablations(tmp_path):
    """On results that were left by hand: two rows of which one is surely better."""
    path, root = tmp_path / "two.toml", tmp_path / "results"
    path.write_text(
        '[parameters]\ndata = "mini"\n[[rows]]\nname = "a"\n[[rows]]\nname = "b"\nparameters = {tau = 2.0}\n'
    )
    for row, value in zip(read_table(path).rows, (0.9, 0.8), strict=True):
        folder = run_folder(row.runs[0], root)
        (folder / "experiment").mkdir(parents=True)
        np.save(folder / "experiment" / "targets.npy", np.eye(3))
        np.save(folder / "resamples.npy", np.full((50, 13), value) + np.random.default_rng(0).normal(0, 0.01, (50, 13)))
        for name in ("declared.json", "run.json", "experiment/result.json"):
            (folder / name).write_text(json.dumps({"parameters": row.runs[0].parameters, "metrics": {"mAP": value}}))
    parameters = {"table": str(path), "scale": "paper", "results": str(root), "out": str(tmp_path / "found.json")}
    notebook = run("10_ablations", parameters, tmp_path)
    (found,) = json.loads((tmp_path / "found.json").read_text())["differences"]
    assert (found["better"], found["than"], found["verdict"]) == ("a", "b", "holds")
    assert found["difference"] == pytest.approx(0.1)
    assert len(pictures(notebook)) == 1


def test_cost(tmp_path):
    run("12_cost", {"steps": 1, "batch_size": 2, "out": str(tmp_path / "cost.json"), **SMALL}, tmp_path)
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["parameters"] == cost["backbone_parameters"] + cost["head_parameters"]
    assert cost["gflops_literal"] > cost["gflops"] > 0
    assert cost["training_memory"] >= cost["inference_memory"] > 0


@pytest.mark.parametrize("name", [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))])
def test_parameters_are_explained(name):
    for parameter, about in notebook_parameters(name).items():
        assert about["help"], parameter
