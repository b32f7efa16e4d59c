"""Fixtures: a small drawn dataset, its prepared folder, and one tiny trained experiment, each made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Set before torch is loaded: waiting threads must not take the core from the worker that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).with_name("golden")

TINY = {
    "arch": "test_resnet",
    "pretrained": False,
    "image_size": 64,
    "output_stride": 16,
    "batch_size": 8,
    "lr": 1e-3,
    "lamda": 0.1,
    "ema_decay": 0.8,
    "augment": "flip",
    "num_workers": 0,
    "epochs": 2,
}
"""Settings that train in seconds."""


def train_words(*, exp_dir=None, **options) -> list[str]:
    """The words of a `sgre train` command that say these options of `train`."""
    from sgre_lib.base.settings import make_machine, make_settings, split_settings

    of_training, of_machine = split_settings(options)
    words = ["train", *make_settings(**of_training).arguments(), *make_machine(**of_machine).arguments()]
    return words + (["--exp-dir", str(exp_dir)] if exp_dir else [])


def golden(name: str):
    """The arrays of one golden file: computed with the released implementation."""
    return np.load(GOLDEN / f"{name}.npz")


def random_results(images: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (images, labels) that have to do with their targets, the targets, and a mask of a few."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, labels)) < 0.3).astype(np.uint8)
    scores = 1 / (1 + np.exp(-(3 * targets - 2 + 1.5 * rng.standard_normal((images, labels)))))
    return scores, targets, (rng.random((images, labels)) < 0.1).astype(np.uint8)


def run_sgre(*arguments, cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "sgre_lib", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A folder of raw datasets with a small `mini` in it."""
    from sgre_lib.mini.annotations import make_mini

    root = tmp_path_factory.mktemp("raw")
    make_mini(root / "mini", train_images=44, test_images=20, image_size=64, progress=False)
    return root


@pytest.fixture(scope="session")
def small_mini(data_root, tmp_path_factory) -> Path:
    """The prepared folder of the small `mini`."""
    from sgre_lib import prepare

    return prepare("mini", data_root=data_root, out=tmp_path_factory.mktemp("prepared") / "mini", progress=False).folder


@pytest.fixture(scope="session")
def experiment(small_mini, tmp_path_factory) -> Path:
    """A trained and evaluated experiment."""
    from sgre_lib import evaluate, train

    folder = tmp_path_factory.mktemp("experiments") / "exp"
    train(data=str(small_mini), embed_type="minilm", pos=True, exp_dir=str(folder), progress=False, **TINY)
    evaluate(folder, num_workers=0, progress=False)
    return folder


@pytest.fixture
def photos(small_mini, tmp_path) -> Path:
    """A folder with three photos at two depths, and things that are no photos."""
    from sgre_lib import PreparedDataset

    paths = PreparedDataset(small_mini).split("test").paths
    folder = tmp_path / "my photos"
    (folder / "Жилет [1]").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    shutil.copy(paths[0], folder / "b.jpg")
    shutil.copy(paths[1], folder / "a ü.JPG")
    shutil.copy(paths[2], folder / "Жилет [1]" / "猫 $1$.jpeg")
    shutil.copy(paths[3], folder / ".thumbnails" / "t.jpg")
    (folder / "b.heatmap.png").write_bytes(b"a figure of ours")
    (folder / "notes.txt").write_text("no photo")
    return folder
