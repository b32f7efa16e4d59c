"""Reproduction: the runs of tables, one after the other or side by side, then each table and its report.

`experiments/results/<table>/` holds table.{csv,md,html,json}, the executed report notebook and report.html; the runs
behind them are in `experiments/results/runs/` (see `run_folder`), where tables share them. Several processes may work
side by side: each run is locked by the one that is at it, a table only while it is written.
"""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.files import write_array, write_json
from ..base.lock import folder_lock
from ..base.provenance import code_version, package_versions
from ..base.settings import MachineSettings, TrainSettings
from ..datasets.prepared import DATASET_NAMES, prepared_folder
from ..training.history import read_history
from .declaration import Run, Table
from .formats import write_table
from .notebooks import (
    COST,
    EVALUATE,
    NOTEBOOKS,
    PREPARE,
    TRAIN,
    VISUALIZE,
    NotebookFailed,
    interrupt_kernels,
    machine_parameters,
    notebooks_folder,
    run_notebook,
    say,
    split_parameters,
)  # fmt: skip
from .plan import PlannedRun, plan_runs, read_tables, results_folder
from .report import write_report
from .results import TableResult, collect_runs
from .run_folder import METRICS, read_json, read_run, resample_experiment, result_file, run_folder

RECORDED = ("torch", "torchvision", "timm", "numpy", "pillow", "papermill")
"""Packages whose versions are recorded with a run."""


def reproduce(
    tables: Iterable[str | os.PathLike] | str | os.PathLike | None = None,
    *,
    scale: str = "paper",
    only: Iterable[str] | None = None,
    force: bool = False,
    jobs: int = 1,
    seeds: Iterable[int] | None = None,
    runs: Iterable[str] | None = None,
    machine: MachineSettings | None = None,
    results: str | os.PathLike | None = None,
    report: bool = True,
    progress: bool = True,
) -> list[TableResult]:
    """Bring tables up to date: execute the runs that are missing, write each table and its report, return the results.

    tables: names in `experiments/tables` or paths of .toml files; None: all of this project. scale: `paper`, or `mini`
    for the same rows on the embedded dataset; a table with one scale only is taken as it is. only: names of rows to run
    (the table shows all). force: run again what is done; what was there gets another name and stays. jobs: runs side by
    side; on GPUs each has as many of its own as `machine` has processes. seeds: instead of the declared ones, of every
    row. runs: execute only these, by key, and write no table. machine: what computes; it changes no run's key. results:
    the folder to keep them in (default experiments/results). report: also make report.html from the report notebook.

    A row whose run fails is recorded as failed and does not stop the others. An interrupted run goes on from its last
    checkpoint; one that another process is at is skipped.
    """
    seeds = list(seeds) if seeds else None
    declared = read_tables(tables, scale, seeds)
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is below 1")
    for path in (notebooks_folder() / f"{notebook}.ipynb" for notebook in NOTEBOOKS):
        if not path.is_file():
            raise UserError(f"the notebook {path} is missing: reproduce needs the whole checkout")
    root = results_folder(results)
    plan = plan_runs(declared, root, only=only, runs=runs, force=force)
    finished = []
    with _Executor(root, jobs, force, machine or MachineSettings(), progress) as executor:
        if jobs > 1:
            executor.add(plan)
        for table in declared:
            if jobs == 1:  # one thing at a time: a table's report comes before the next table's runs
                executor.add([item for item in plan if item.table is table])
            keys = {run.key for row in table.rows for run in row.runs} & executor.futures.keys()
            for key in keys:
                executor.futures[key].result()
            if runs is None:
                finished.append(_finish_table(table, root, report, seeds, changed=bool(keys)))
    return finished if runs is None else [collect_runs(table, root) for table in declared]


class _Executor(ThreadPoolExecutor):
    """Executes planned runs in the order they are added, `jobs` at a time, each in a thread with its share of the machine.

    The runs are in threads, also a single one: the main thread is then free to take Ctrl-C, on which the kernels are
    interrupted, save, and end, before the interruption goes on.
    """

    def __init__(self, root: Path, jobs: int, force: bool, machine: MachineSettings, progress: bool):
        shares, self.share = share_machine(jobs, machine), threading.local()
        super().__init__(jobs, initializer=lambda: vars(self.share).update(environment=shares.pop(0)))
        self.root, self.force, self.progress, self.machine = root, force, progress and jobs == 1, machine.changed()
        self.interrupted = threading.Event()
        self.futures: dict[str, Future] = {}
        self.unprepared: dict[str, str] = {}

    def __exit__(self, kind, *error) -> None:
        if kind is not None:
            self.interrupted.set()
            self.shutdown(wait=False, cancel_futures=True)
            interrupt_kernels()
        super().__exit__(kind, *error)

    def add(self, plan: list[PlannedRun]) -> None:
        self.futures |= {item.run.key: self.submit(self._execute, item) for item in plan}

    def _execute(self, item: PlannedRun) -> None:
        """Bring one run to run.json or failed.json, going on from its last checkpoint where it was interrupted.

        A run that another process is at is left to it, with a line that says so.
        """
        folder = run_folder(item.run, self.root)
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            try:
                locks.enter_context(folder_lock(folder, "reproduce"))
            except UserError as error:
                say(f"{item.label}: skipped: {error}")
                return
            if read_run(item.run, self.root).state == "done":  # another process may have ended it since it was planned
                if not self.force:
                    return
                names = (f"{folder.name}.old{number}" for number in count(1))
                aside = next(path for path in map(folder.with_name, names) if not path.exists())
                os.replace(folder, aside)
                say(f"the earlier run of {folder.name} is kept in {aside}")
                folder.mkdir()
                locks.enter_context(folder_lock(folder, "reproduce"))
            self._run_notebooks(item, folder)

    def _run_notebooks(self, item: PlannedRun, folder: Path) -> None:
        run, begun, seconds = item.run, datetime.now(timezone.utc), 0.0
        with suppress(UserError, KeyError):  # what was trained before an interruption
            seconds = sum(row["seconds"] for row in read_history(folder / "experiment"))
        for name in ("failed.json", "run.json"):
            if (folder / name).exists():
                os.replace(folder / name, folder / f"previous_{name}")
        write_json(folder / "declared.json", {"kind": run.kind, "parameters": run.parameters})
        steps = _plan_notebooks(run, folder, self.machine)
        try:
            if run.kind != "cost":
                self._prepare_data(run.parameters["data"])
                begun = datetime.now(timezone.utc)  # what all runs share is not this one's time
            for notebook, parameters in steps.items():
                run_notebook(
                    notebook, folder / f"{notebook}.ipynb", parameters, label=f"{item.label}: {notebook}",
                    progress=self.progress, epochs=run.parameters.get("epochs", TrainSettings.epochs),
                    history=folder / "experiment" / "history.csv" if notebook == TRAIN else None,
                    environment=self.share.environment,
                )  # fmt: skip
            found = _read_result(run, folder)
        except NotebookFailed as failure:
            if not self.interrupted.is_set():  # else it is not the notebook's fault: the run goes on another time
                started = begun.isoformat(timespec="seconds")
                said = {"parameters": run.parameters, "error": str(failure), "started": started}
                write_json(folder / "failed.json", said)
                say(f"{item.label}: failed: {failure}")
            return
        ended, code = datetime.now(timezone.utc), code_version()
        seconds += (ended - begun).total_seconds()
        about = {
            "run": folder.name, "kind": run.kind, "key": run.key, "parameters": run.parameters, "seed": run.seed, **found,
            "started": begun.isoformat(timespec="seconds"), "ended": ended.isoformat(timespec="seconds"),
            "seconds": seconds, "code_version": code,
            "clean": None if code == "unknown" else not code.endswith("+changes"),
            "versions": package_versions(RECORDED), "notebooks": [f"{notebook}.ipynb" for notebook in steps],
        }  # fmt: skip
        write_json(folder / "run.json", about)
        value = "measured" if run.kind == "cost" else f"mAP {100 * found['metrics']['mAP']:.1f}"
        say(f"{item.label}: {value} in {seconds:.0f} s")

    def _prepare_data(self, data: str) -> None:
        """Prepare a dataset that is not prepared yet; NotebookFailed, at every later call too, where it cannot be."""
        folder, labels = self.root / "preparation" / data, prepared_folder(data) / "label.txt"
        if data not in DATASET_NAMES or labels.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder, "reproduce", wait=True):
            if not labels.exists() and data not in self.unprepared:  # else another has tried it meanwhile
                parameters = {"data": data} | machine_parameters(PREPARE, self.machine)
                try:
                    run_notebook(PREPARE, folder / f"{PREPARE}.ipynb", parameters, progress=self.progress)
                except NotebookFailed as failure:
                    self.unprepared[data] = f"{data} could not be prepared: {failure}"
        if data in self.unprepared:
            raise NotebookFailed(self.unprepared[data])


def _plan_notebooks(run: Run, folder: Path, machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The notebooks that make a run, in order, each with its parameters."""
    if run.kind == "cost":
        steps = {COST: split_parameters(run.parameters, COST) | {"out": str((folder / "cost.json").resolve())}}
    else:
        experiment = (folder / "experiment").resolve()
        given, resume = {"exp_dir": str(experiment)}, (experiment / "checkpoints" / "last.pth").exists()
        rules = {name: run.parameters[name] for name in ("threshold", "topk") if name in run.parameters}
        steps = {TRAIN: split_parameters(run.parameters) | given | {"resume": resume}, EVALUATE: given | rules}
        if run.heatmaps and run.parameters.get("branches") != "patch":  # that branch aligns no label with patches
            steps[VISUALIZE] = given | {"limit": run.heatmaps}
    return {name: parameters | machine_parameters(name, machine) for name, parameters in steps.items()}


def _read_result(run: Run, folder: Path) -> dict[str, Any]:
    """metrics, labels, data fingerprint and device that the notebooks left; the resamples are made and stored."""
    result = read_json(folder / result_file(run))
    if result is None:
        raise NotebookFailed(f"the last notebook ended without writing {result_file(run)}")
    metrics = {name: result[name] for name in METRICS[run.kind] if result.get(name) is not None}
    if run.kind == "cost":
        return {"metrics": metrics, "device": result.get("device")}
    write_array(folder / "resamples.npy", resample_experiment(folder / "experiment"))
    about = {name: result.get(name) for name in ("data_fingerprint", "device")}
    return {"metrics": metrics, "labels": result.get("AP", {}), **about}


def share_machine(jobs: int, machine: MachineSettings) -> list[dict[str, str]]:
    """For each of so many runs side by side, the variables that give its kernels their share of this machine.

    Raises UserError where there are GPUs, but too few to give each run one for each of its processes.
    """
    if jobs == 1:
        return [{}]
    import torch

    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    gpus, each = torch.cuda.device_count(), machine.processes
    if not gpus or machine.device == "cpu":
        return [threads] * jobs
    if jobs * each > gpus:
        takes = "one" if each == 1 else each
        raise UserError(f"--jobs {jobs} is more than the {gpus} GPUs allow: each run takes {takes} of its own")
    names = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))).split(",")
    shares = [names[number * each : (number + 1) * each] for number in range(jobs)]
    return [threads | {"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _finish_table(table: Table, root: Path, report: bool, seeds: list[int] | None, changed: bool) -> TableResult:
    """Write a table and, where something it is made of has changed, its report."""
    found = collect_runs(table, root)
    found.folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(found.folder, "reproduce", wait=True):
        write_table(found)
    say(f"{table.name}: {found.describe_rows()}" + ("" if changed else ", all as before"))
    for row in found.rows:
        if row.state == "failed":
            say(f"{table.name}: {row.row.name}: FAILED: {row.error}")
    if report:
        try:
            say(f"report: {write_report(found, seeds)}")
        except NotebookFailed as failure:  # the table itself is written, and other tables go on
            say(f"{table.name}: THE REPORT FAILED: {failure}")
            return replace(found, report_problem=str(failure))
    return found
