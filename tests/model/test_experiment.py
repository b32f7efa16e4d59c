"""Protects reading an experiment folder: damage is one line, the authors' config.yaml is read, the latest is found."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from sgre_lib import UserError, load_experiment
from sgre_lib.model.experiment import latest_experiment


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


def test_the_latest_experiment_is_found_wherever_it_lies(experiment, small_mini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run 03_train first"):
        latest_experiment()
    for name in ("mlic_mini/exp1", "results/table/row/experiment"):
        shutil.copytree(experiment, tmp_path / "experiments" / name, copy_function=shutil.copy)
    assert latest_experiment(small_mini) == tmp_path / "experiments/results/table/row/experiment"


def test_the_latest_experiment_of_a_kind(experiment, tmp_path, monkeypatch):
    copy = tmp_path / "experiments" / "exp"
    shutil.copytree(experiment, copy)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    assert latest_experiment(keep=lambda settings: settings.model == "mlic") == copy
    with pytest.raises(UserError, match="of the kind asked for"):
        latest_experiment(keep=lambda settings: settings.model == "gap")
