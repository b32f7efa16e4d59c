"""The folder of a run: one set of parameters with one seed, executed once for all the rows that ask for it.

A run's folder, `experiments/results/runs/<data>-<row>-s<seed>-<key>/`, is found by its key, a hash of the parameters.
Changed parameters are another run, so no result is ever out of date or overwritten. The folder holds

    declared.json     the parameters it was begun with
    experiment/       the experiment folder
    *.ipynb           the executed notebooks
    resamples.npy     every metric on resampled test images (`intervals.resample_metrics`)
    cost.json         of a cost run, in place of the experiment and its resamples
    run.json          written last: the same parameters, metrics, seconds, provenance. With it, the run is done.
    failed.json       instead: which notebook failed, and why
    .lock             held by the process that works on it

A run is done when its own run.json is there and says the declared parameters; neither papermill's status nor a
notebook's presence is taken for success.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.intervals import COLUMNS, resample_metrics
from ..evaluation.result_files import read_scores
from .declaration import Run

COST_COLUMNS = {
    "parameters": ("parameters, M", 1e-6, 1),
    "backbone_parameters": ("backbone, M", 1e-6, 1),
    "head_parameters": ("head, M", 1e-6, 1),
    "gflops": ("GFLOPs an image", 1, 2),
    "gflops_literal": ("GFLOPs, literal formulas", 1, 2),
    "inference_images_per_second": ("inference, images/s", 1, 1),
    "training_images_per_second": ("training, images/s", 1, 1),
    "inference_memory": ("inference memory, MB", 1e-6, 0),
    "training_memory": ("training memory, MB", 1e-6, 0),
}
"""What a cost run measures, in the order of a cost table: header with unit, factor to that unit, decimals."""

METRICS: dict[str, tuple[str, ...]] = {"accuracy": COLUMNS, "cost": tuple(COST_COLUMNS)}
"""What a run of each kind measures, in the order of the table's columns."""


@dataclass(frozen=True)
class RunResult:
    """What the disk says of a run. state: done, failed, interrupted or not run.

    metrics: fractions, or what `COST_COLUMNS` names, in base units. labels: AP of each label. resamples: (R, 13), each
    metric on the same resampled test images. about: the content of run.json.
    """

    run: Run
    state: str
    folder: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    labels: dict[str, float] = field(default_factory=dict)
    resamples: np.ndarray | None = None
    error: str = ""
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def notebooks(self) -> list[Path]:
        """The executed notebooks, in order."""
        return sorted(self.folder.glob("[0-9]*.ipynb"))

    @property
    def files(self) -> list[Path]:
        """The small files that say its numbers, as far as they are there."""
        of_experiment = ("result.json", "history.csv", "config.yaml", "localisation.json")
        named = ("run.json", "cost.json", *(f"experiment/{name}" for name in of_experiment))
        return [path for name in named if (path := self.folder / name).exists()]


def run_folder(run: Run, results: Path) -> Path:
    """Where a run is, or would be: the folder with its key, whatever row it was named after."""
    there = sorted(path for path in (results / "runs").glob(f"*-{run.key}") if path.is_dir())
    return there[0] if there else results / "runs" / run.name


def read_run(run: Run, results: Path) -> RunResult:
    """What the disk says of a run."""
    folder = run_folder(run, results)
    if read_json(folder / "declared.json") is None:
        return RunResult(run, "not run", folder)
    about, failed = read_json(folder / "run.json"), read_json(folder / "failed.json")
    said = about and about.get("parameters")
    same = isinstance(said, dict) and Run(run.kind, said, run.slug).key == run.key
    if same and (folder / result_file(run)).exists():
        measured = {"metrics": about["metrics"], "labels": about.get("labels", {}), "resamples": read_resamples(folder)}
        return RunResult(run, "done", folder, **measured, seconds=about.get("seconds", 0.0), about=about)
    if failed is not None:
        return RunResult(run, "failed", folder, error=failed.get("error", ""))
    return RunResult(run, "interrupted", folder)


def result_file(run: Run) -> str:
    return "cost.json" if run.kind == "cost" else "experiment/result.json"


def read_json(path: Path) -> dict | None:
    """The object in a JSON file, or None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_resamples(folder: Path) -> np.ndarray | None:
    """The (R, 13) metrics on resampled test images that a run stored, or None."""
    try:
        stored = np.load(folder / "resamples.npy", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return stored if stored.ndim == 2 and stored.shape[1] == len(COLUMNS) else None


def resample_experiment(experiment: Path) -> np.ndarray:
    """`intervals.resample_metrics` of an evaluated experiment, under the rules of its result.json."""
    said = read_json(experiment / "result.json") or {}
    rules = {name: said[name] for name in ("threshold", "topk", "never_predicted") if name in said}
    return resample_metrics(*read_scores(experiment), **rules)
