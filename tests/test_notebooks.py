"""Protects the notebooks: each runs through papermill with small parameters, and their sources keep the house rules."""

from __future__ import annotations

import json
import shutil

import nbformat
import papermill
import pytest
from conftest import ROOT

from sgre_lib.report import check_notebook_sources
from sgre_lib.reproduction import notebook_parameters, split_parameters
from sgre_lib.settings import TrainSettings

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
    own = set(notebook_parameters("03_train")) - {"more_settings"}
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
        "backbone_weights": str(small_mini / "test_resnet.pth"), "more_settings": {"num_workers": 0, "tau": 0.9}, **SMALL,
    }  # fmt: skip
    run("03_train", parameters, tmp_path)
    assert (tmp_path / "exp" / "history.png").exists()
    run("04_evaluate", {"exp_dir": exp_dir, "topk": 2}, tmp_path)
    assert "top2_CF1" in json.loads((tmp_path / "exp" / "result.json").read_text())
    run("05_visualize_heatmaps", {"exp_dir": exp_dir, "limit": 3}, tmp_path)
    assert (tmp_path / "exp" / "visualization" / "index.json").exists()


def test_the_report_notebook_on_a_table_that_has_not_run(tmp_path):
    table = tmp_path / "fresh.toml"
    shutil.copy(ROOT / "experiments" / "tables" / "mini.toml", table)
    parameters = {"table": str(table), "results": str(tmp_path / "results"), "run": False}
    notebook = run("20_reproduce_tables", parameters, tmp_path)
    text = json.dumps(notebook)
    assert "not run" in text


@pytest.mark.parametrize("name", [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))])
def test_parameters_are_explained(name):
    for parameter, about in notebook_parameters(name).items():
        assert about["help"], parameter
