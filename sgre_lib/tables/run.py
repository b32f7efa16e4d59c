"""Runs: one set of parameters with one seed through the numbered notebooks, each once for all the rows that ask for it.

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

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import folder_lock, write_array, write_json
from ..base.provenance import code_version, package_versions
from ..base.settings import TrainSettings
from ..evaluation.intervals import COLUMNS, resample_metrics
from ..evaluation.result_files import read_scores
from .declaration import COST_PARAMETERS, Run
from .notebooks import NotebookFailed, notebook_parameters, run_notebook

NOTEBOOKS = PREPARE, TRAIN, EVALUATE, VISUALIZE, COST, REPORT, START = (
    "01_prepare_datasets", "03_train", "04_evaluate", "05_visualize_heatmaps", "12_cost", "20_reproduce_tables",
    "21_all_tables",
)  # fmt: skip
"""The notebooks that tables and their report are made of."""

RECORDED = ("torch", "torchvision", "timm", "numpy", "pillow", "papermill")
"""Packages whose versions are recorded with a run."""


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
    about = read_json(folder / "run.json")
    if about is not None and _is_same(run, about) and (folder / _result_file(run)).exists():
        return RunResult(
            run, "done", folder, about["metrics"], about.get("labels", {}), read_resamples(folder),
            seconds=about.get("seconds", 0.0), about=about,
        )  # fmt: skip
    failed = read_json(folder / "failed.json")
    if failed is not None:
        return RunResult(run, "failed", folder, error=failed.get("error", ""))
    return RunResult(run, "interrupted", folder)


def _is_same(run: Run, about: dict) -> bool:
    parameters = about.get("parameters")
    return isinstance(parameters, dict) and Run(run.kind, parameters, run.slug).key == run.key


def _result_file(run: Run) -> str:
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


def execute_run(
    run: Run,
    results: Path,
    label: str,
    *,
    force: bool = False,
    problem: str | None = None,
    progress: bool = True,
    environment: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Bring one run to run.json or failed.json, going on from its last checkpoint where it was interrupted.

    label: what the user knows it by. force: run it again where it is done; what it had gets another name. problem: why
    it cannot run. environment: variables for its kernels. machine: values of `MachineSettings` by name. stop: set when
    the user has interrupted, so that the error of an interrupted notebook is no failure. A run that another process is
    at is left to it, with a line that says so.
    """
    folder = run_folder(run, results)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder, "reproduce"))
        except UserError as error:
            say(f"{label}: skipped: {error}")
            return
        if read_run(run, results).state == "done":  # another process may have ended it since it was planned
            if not force:
                return
            move_aside(folder)
            folder.mkdir()
            stack.enter_context(folder_lock(folder, "reproduce"))
        begun, started = time.monotonic(), now()
        spent_before = _training_seconds(folder / "experiment")  # of a run that was interrupted and goes on
        for name in ("failed.json", "run.json"):
            if (folder / name).exists():
                os.replace(folder / name, folder / f"previous_{name}")
        write_json(folder / "declared.json", {"kind": run.kind, "parameters": run.parameters})
        try:
            if problem:
                raise NotebookFailed(problem)
            steps = _run_notebooks(run, folder, label, progress, environment, machine or {})
            found = _read_result(run, folder)
        except NotebookFailed as failure:
            if stop is not None and stop.is_set():  # not the notebook's fault: the run goes on another time
                return
            said = {"parameters": run.parameters, "error": str(failure), "started": started}
            write_json(folder / "failed.json", said)
            say(f"{label}: failed: {failure}")
            return
        seconds = spent_before + time.monotonic() - begun
        write_json(folder / "run.json", _describe_run(run, folder, found, started, seconds, steps))
        value = "measured" if run.kind == "cost" else f"mAP {100 * found['metrics']['mAP']:.1f}"
        say(f"{label}: {value} in {seconds:.0f} s")


def _run_notebooks(
    run: Run,
    folder: Path,
    label: str,
    progress: bool,
    environment: Mapping[str, str] | None,
    machine: Mapping[str, Any],
) -> list[str]:
    """Execute the notebooks that make a run, and return their names."""
    steps = notebook_steps(run, folder, machine)
    for notebook, parameters in steps:
        run_notebook(
            notebook,
            folder / f"{notebook}.ipynb",
            parameters,
            label=f"{label}: {notebook}",
            progress=progress,
            history=folder / "experiment" / "history.csv" if notebook == TRAIN else None,
            epochs=run.parameters.get("epochs", TrainSettings.epochs),
            environment=environment,
        )
    return [notebook for notebook, _ in steps]


def _describe_run(
    run: Run, folder: Path, found: dict[str, Any], started: str, seconds: float, notebooks: list[str]
) -> dict[str, Any]:
    """The content of run.json."""
    code = code_version()
    return {
        "run": folder.name, "kind": run.kind, "key": run.key, "parameters": run.parameters, "seed": run.seed, **found,
        "started": started, "ended": now(), "seconds": seconds, "code_version": code,
        "clean": None if code == "unknown" else not code.endswith("+changes"),
        "versions": package_versions(RECORDED), "notebooks": [f"{notebook}.ipynb" for notebook in notebooks],
    }  # fmt: skip


def _read_result(run: Run, folder: Path) -> dict[str, Any]:
    """metrics, labels, data fingerprint and device that the notebooks left; the resamples are made and stored."""
    result = read_json(folder / _result_file(run))
    if result is None:
        raise NotebookFailed(f"the last notebook ended without writing {_result_file(run)}")
    if run.kind == "cost":
        metrics = {name: result[name] for name in COST_COLUMNS if result.get(name) is not None}
        return {"metrics": metrics, "device": result.get("device")}
    write_array(folder / "resamples.npy", resample_experiment(folder / "experiment"))
    metrics = {name: result[name] for name in COLUMNS if result.get(name) is not None}
    about = {name: result.get(name) for name in ("data_fingerprint", "device")}
    return {"metrics": metrics, "labels": result.get("AP", {}), **about}


def _training_seconds(experiment: Path) -> float:
    """Seconds of the epochs that an experiment's history.csv has; 0 where there is none yet."""
    try:
        with open(experiment / "history.csv", encoding="utf-8", newline="") as file:
            return sum(float(row["seconds"]) for row in csv.DictReader(file))
    except (OSError, KeyError, ValueError):
        return 0.0


def notebook_steps(
    run: Run, folder: Path, machine: Mapping[str, Any] | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """The notebooks that make a run, in order, each with its parameters. machine: see `execute_run`."""
    machine = machine or {}
    if run.kind == "cost":
        out = str((folder / "cost.json").resolve())
        return [(COST, split_parameters(run.parameters, COST) | machine_parameters(COST, machine) | {"out": out})]
    experiment = (folder / "experiment").resolve()
    given = {"exp_dir": str(experiment), "resume": (experiment / "checkpoints" / "last.pth").exists()}
    steps = [
        (TRAIN, split_parameters(run.parameters, TRAIN) | machine_parameters(TRAIN, machine) | given),
        (EVALUATE, {"exp_dir": str(experiment)} | machine_parameters(EVALUATE, machine)),
    ]
    if run.heatmaps and run.parameters.get("branches") != "patch":  # that branch aligns no label with patches
        given = {"exp_dir": str(experiment), "limit": run.heatmaps}
        steps.append((VISUALIZE, given | machine_parameters(VISUALIZE, machine)))
    return steps


def machine_parameters(notebook: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """What a notebook takes of the machine's settings: all in its parameter `machine`, else those that it names."""
    known = notebook_parameters(notebook)
    if "machine" in known:
        return {"machine": dict(machine)}
    return {name: value for name, value in machine.items() if name in known}


def split_parameters(parameters: dict[str, Any], notebook: str = TRAIN) -> dict[str, Any]:
    """Parameters as a notebook takes them: its own by name, the rest in `more_settings`.

    What is not declared takes the library's default, never the example value that stands in the notebook.
    """
    known = notebook_parameters(notebook)
    values = vars(TrainSettings()) | COST_PARAMETERS | parameters
    own = {name: values[name] for name in known if name in values}
    return own | {"more_settings": {name: value for name, value in parameters.items() if name not in known}}


def move_aside(folder: Path) -> None:
    """Give what a run had another name: nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    os.replace(folder, aside)
    say(f"the earlier run of {folder.name} is kept in {aside}")


def say(text: str) -> None:
    """Print a line without breaking a progress bar."""
    tqdm.write(text)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
