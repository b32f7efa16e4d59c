"""Reproduction: the runs of tables, one after the other or side by side, then each table and its report.

`experiments/results/<table>/` holds table.{csv,md,html,json}, the executed report notebook and report.html; the runs
behind them are in `experiments/results/runs/` (see `run`), where tables share them. Several processes may work side by
side: each run is locked by the one that is at it, a table only while it is written.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..base.errors import UserError
from ..base.files import folder_lock
from ..base.settings import MachineSettings
from ..datasets.prepared import DATASET_NAMES, prepared_folder
from .declaration import Table
from .formats import write_table
from .notebooks import NotebookFailed, interrupt_kernels, notebooks_folder, run_notebook
from .plan import PlannedRun, plan_runs, read_tables, results_folder
from .report import write_report
from .results import TableResult, collect_runs
from .run import NOTEBOOKS, PREPARE, execute_run, machine_parameters, say


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
    for notebook in NOTEBOOKS:
        if not (notebooks_folder() / f"{notebook}.ipynb").is_file():
            raise UserError(
                f"the notebook {notebooks_folder() / notebook}.ipynb is missing: reproduce needs the whole checkout"
            )
    root = Path(results).expanduser() if results is not None else results_folder()
    wanted = None if runs is None else list(runs)
    plan = plan_runs(declared, root, only=only, runs=wanted, force=force)
    finished = []
    with _Executor(root, jobs, force, machine or MachineSettings(), progress) as executor:
        if jobs > 1:
            executor.add(plan)
        for table in declared:
            if jobs == 1:  # one thing at a time: a table's report comes before the next table's runs
                executor.add([item for item in plan if item.table is table])
            keys = {run.key for row in table.rows for run in row.runs} & executor.futures.keys()
            executor.wait(keys)
            if wanted is None:
                finished.append(_finish_table(table, root, report, seeds, changed=bool(keys)))
    return finished if wanted is None else [collect_runs(table, root) for table in declared]


class _Executor:
    """Executes planned runs in the order they are added, `jobs` at a time.

    The runs are in threads, also a single one: the main thread is then free to take Ctrl-C, on which the kernels are
    interrupted, save, and end, before the interruption goes on.
    """

    def __init__(self, root: Path, jobs: int, force: bool, machine: MachineSettings, progress: bool):
        self.root, self.force, self.progress = root, force, progress and jobs == 1
        self.machine = machine.changed()
        self.stop = threading.Event()
        self.places: queue.Queue[dict[str, str]] = queue.Queue()
        for environment in share_machine(jobs, machine):
            self.places.put(environment)
        self.pool = ThreadPoolExecutor(jobs)
        self.futures: dict[str, Future] = {}

    def add(self, plan: list[PlannedRun]) -> None:
        problems = self._prepare_data(plan)
        for item in plan:
            problem = problems.get(item.run.parameters.get("data", ""))
            self.futures[item.run.key] = self.pool.submit(self._execute, item, problem)

    def _execute(self, item: PlannedRun, problem: str | None) -> None:
        environment = self.places.get()
        try:
            execute_run(
                item.run, self.root, item.label, force=self.force, problem=problem, progress=self.progress,
                environment=environment, machine=self.machine, stop=self.stop,
            )  # fmt: skip
        finally:
            self.places.put(environment)

    def _prepare_data(self, plan: list[PlannedRun]) -> dict[str, str]:
        """Prepare the datasets that are not prepared yet. Returns, by dataset, why one could not be."""
        problems = {}
        for data in dict.fromkeys(item.run.parameters["data"] for item in plan if item.run.kind != "cost"):
            folder = self.root / "preparation" / data
            if data not in DATASET_NAMES or (prepared_folder(data) / "label.txt").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(folder, "reproduce", wait=True):
                if (prepared_folder(data) / "label.txt").exists():  # another process has prepared it meanwhile
                    continue
                parameters = {"data": data} | machine_parameters(PREPARE, self.machine)
                try:
                    run_notebook(PREPARE, folder / f"{PREPARE}.ipynb", parameters, progress=self.progress)
                except NotebookFailed as failure:
                    problems[data] = f"{data} could not be prepared: {failure}"
        return problems

    def wait(self, keys: set[str]) -> None:
        for key in keys:
            self.futures[key].result()

    def __enter__(self) -> _Executor:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            self.stop.set()
            self.pool.shutdown(wait=False, cancel_futures=True)
            interrupt_kernels()
        self.pool.shutdown()


def share_machine(jobs: int, machine: MachineSettings | None = None) -> list[dict[str, str]]:
    """For each of so many runs side by side, the variables that give its kernels their share of this machine.

    Raises UserError where there are GPUs, but too few to give each run one for each of its processes.
    """
    if jobs == 1:
        return [{}]
    import torch

    machine = machine or MachineSettings()
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    count, each = torch.cuda.device_count(), machine.processes
    if not count or machine.device == "cpu":
        return [threads] * jobs
    if jobs * each > count:
        takes = "one" if each == 1 else f"{each}"
        raise UserError(f"--jobs {jobs} is more than the {count} GPUs allow: each run takes {takes} of its own")
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else [str(number) for number in range(count)]
    shares = [names[number * each : (number + 1) * each] for number in range(jobs)]
    return [threads | {"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _finish_table(table: Table, root: Path, report: bool, seeds: list[int] | None, changed: bool) -> TableResult:
    """Write a table and, where something it is made of has changed, its report."""
    found = collect_runs(table, root)
    found.folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(found.folder, "reproduce", wait=True):
        write_table(found)
    done = sum(row.state == "done" for row in found.rows)
    say(f"{table.name}: {done} of {len(found.rows)} rows done" + ("" if changed else ", all as before"))
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
