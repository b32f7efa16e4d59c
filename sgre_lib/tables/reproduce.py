"""Reproduction: the runs of tables, one after the other or side by side, then each table and its report.

`experiments/results/<table>/` holds table.{csv,md,html,json}, the executed report notebook and report.html; the runs
behind them are in `experiments/results/runs/` (see `runs`), where tables share them. Several processes may work side by
side: each run is locked by the one that is at it, a table only while it is written.
"""

from __future__ import annotations

import html
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from ..base.errors import UserError
from ..base.files import folder_lock, write_json, write_text
from ..datasets.prepared import DATASET_NAMES, prepared_folder
from .declaration import Table
from .formats import format_choices, format_csv, format_html, format_markdown
from .judge import ClaimResult, RowResult, RunResult, format_metric, judge_claims, judge_row
from .notebooks import NotebookFailed, interrupt_kernels, notebooks_folder, run_notebook
from .plan import PlannedRun, plan_runs, read_tables, results_folder, table_results
from .run import COST, EVALUATE, PREPARE, REPORT, TRAIN, VISUALIZE, execute_run, say


@dataclass(frozen=True)
class TableResult:
    """A table after `reproduce`: its declaration, its rows' results, and the files written (table.csv, report.html).

    report_problem: why report.html could not be made anew; empty where it could.
    """

    table: Table
    rows: list[RowResult]
    folder: Path
    report_problem: str = ""

    @property
    def failed(self) -> list[str]:
        """Names of failed rows."""
        return [result.row.name for result in self.rows if result.state == "failed"]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def reproduce(
    tables: Iterable[str | os.PathLike] | str | os.PathLike | None = None,
    *,
    scale: str = "paper",
    only: Iterable[str] | None = None,
    force: bool = False,
    jobs: int = 1,
    seeds: Iterable[int] | None = None,
    runs: Iterable[str] | None = None,
    results: str | os.PathLike | None = None,
    report: bool = True,
    progress: bool = True,
) -> list[TableResult]:
    """Bring tables up to date: execute the runs that are missing, write each table and its report, return the results.

    tables: names in `experiments/tables` or paths of .toml files; None: all of this project. scale: `paper`, or `mini`
    for the same rows on the embedded dataset. only: names of rows; the others are shown as they stand. force: run done
    rows again; what they had is moved aside, never deleted. jobs: runs side by side, each with its own GPU where there
    are any and its share of the CPU's threads. seeds: instead of the declared ones. runs: keys of runs, as `plan_runs`
    gives them: only these are executed, and no table is written. results: the folder for results (default
    experiments/results).

    A failed run does not stop the others; `TableResult.failed` names its row. An interrupted run goes on from its last
    checkpoint; one that another process is at is skipped.
    """
    seeds = list(seeds) if seeds else None
    declared = read_tables(tables, scale, seeds)
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is below 1")
    for notebook in (PREPARE, TRAIN, EVALUATE, VISUALIZE, COST, REPORT):
        if not (notebooks_folder() / f"{notebook}.ipynb").is_file():
            raise UserError(
                f"the notebook {notebooks_folder() / notebook}.ipynb is missing: reproduce needs the whole checkout"
            )
    root = Path(results).expanduser() if results is not None else results_folder()
    wanted = None if runs is None else list(runs)
    plan = plan_runs(declared, root, only=only, runs=wanted, force=force)
    executor = _Executor(root, jobs, force, progress)
    finished = []
    with executor:
        if jobs > 1:
            executor.add(plan)
        for table in declared:
            if jobs == 1:  # one thing at a time: a table's report comes before the next table's runs
                executor.add([item for item in plan if item.table is table])
            keys = {run.key for row in table.rows for run in row.runs} & executor.futures.keys()
            executor.wait(keys)
            if wanted is None:
                finished.append(_finish_table(table, root, report, seeds, changed=bool(keys)))
    if wanted is not None:
        finished = [TableResult(table, table_results(table, root), root / table.name) for table in declared]
    return finished


class _Executor:
    """Executes planned runs in the order they are added, `jobs` at a time.

    The runs are in threads, also a single one: the main thread is then free to take Ctrl-C, on which the kernels are
    interrupted, save, and end, before the interruption goes on.
    """

    def __init__(self, root: Path, jobs: int, force: bool, progress: bool):
        self.root, self.force, self.progress = root, force, progress and jobs == 1
        self.stop = threading.Event()
        self.places: queue.Queue[dict[str, str]] = queue.Queue()
        for environment in share_machine(jobs):
            self.places.put(environment)
        self.pool = ThreadPoolExecutor(jobs)
        self.futures: dict[str, Future] = {}

    def add(self, plan: list[PlannedRun]) -> None:
        problems = prepare_data(plan, self.root, self.progress)
        for item in plan:
            problem = problems.get(item.run.parameters.get("data", ""))
            self.futures[item.run.key] = self.pool.submit(self._execute, item, problem)

    def _execute(self, item: PlannedRun, problem: str | None) -> None:
        environment = self.places.get()
        try:
            execute_run(
                item.run, self.root, item.label, force=self.force, problem=problem, progress=self.progress,
                environment=environment, stop=self.stop,
            )  # fmt: skip
        finally:
            self.places.put(environment)

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


def share_machine(jobs: int) -> list[dict[str, str]]:
    """For each of so many runs side by side, the variables that give its kernels their share of this machine.

    Raises UserError where there are GPUs, but fewer than jobs.
    """
    if jobs == 1:
        return [{}]
    import torch

    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    count = torch.cuda.device_count()
    if not count:
        return [threads] * jobs
    if jobs > count:
        raise UserError(f"--jobs {jobs} is more than the {count} GPUs: each run takes one of its own")
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else [str(number) for number in range(count)]
    return [threads | {"CUDA_VISIBLE_DEVICES": names[number]} for number in range(jobs)]


def prepare_data(plan: list[PlannedRun], root: Path, progress: bool) -> dict[str, str]:
    """Prepare the datasets of these runs that are not prepared yet. Returns, by dataset, why one could not be."""
    problems = {}
    for data in dict.fromkeys(item.run.parameters["data"] for item in plan if item.run.kind != "cost"):
        folder = root / "preparation" / data
        if data not in DATASET_NAMES or (prepared_folder(data) / "label.txt").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with wait_for_folder(folder):
            if (prepared_folder(data) / "label.txt").exists():  # another process has prepared it meanwhile
                continue
            try:
                run_notebook(PREPARE, folder / f"{PREPARE}.ipynb", {"data": data}, progress=progress)
            except NotebookFailed as failure:
                problems[data] = f"{data} could not be prepared: {failure}"
    return problems


@contextmanager
def wait_for_folder(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, waiting while another process has it."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(folder_lock(folder, "reproduce"))
                break
            except UserError:
                time.sleep(0.5)
        yield


def _finish_table(table: Table, root: Path, report: bool, seeds: Iterable[int] | None, changed: bool) -> TableResult:
    """Write a table and, where something is newer than it, its report."""
    folder = root / table.name
    folder.mkdir(parents=True, exist_ok=True)
    problem = ""
    with wait_for_folder(folder):
        outcome = table_results(table, root)
        done = sum(result.state == "done" for result in outcome)
        write_table(table, outcome, folder)
        if report and (changed or not (folder / "report.html").exists() or _report_is_old(table, folder, outcome)):
            try:
                make_report(table, root, seeds)
            except NotebookFailed as failure:  # the table itself is written, and other tables go on
                problem = str(failure)
    say(f"{table.name}: {done} of {len(outcome)} rows done" + ("" if changed else ", all as before"))
    for result in outcome:
        if result.state == "failed":
            say(f"{table.name}: {result.row.name}: FAILED: {result.error}")
    if problem:
        say(f"{table.name}: THE REPORT FAILED: {problem}")
    elif report:
        say(f"report: {folder / 'report.html'}")
    return TableResult(table, outcome, folder, problem)


def _report_is_old(table: Table, folder: Path, outcome: list[RowResult]) -> bool:
    """Whether a run, or the table's file (a published value typed in, say), is newer than the report."""
    made = (folder / "report.html").stat().st_mtime
    files = [table.path, *(run.folder / "run.json" for result in outcome for run in result.done)]
    return any(path.stat().st_mtime > made for path in files)


def write_table(table: Table, outcome: list[RowResult], folder: Path) -> None:
    """Write table.csv, table.md, table.html and table.json, which holds all that a report can say of the table."""
    claims = judge_claims(table, outcome)
    write_text(folder / "table.csv", format_csv(outcome))
    write_text(folder / "table.md", format_markdown(table, outcome, claims))
    write_text(folder / "table.html", format_html(table, outcome))
    write_json(folder / "table.json", describe_table(table, outcome, claims, folder.parent))


def describe_table(table: Table, outcome: list[RowResult], claims: list[ClaimResult], results: Path) -> dict:
    """A table and its results as plain values; folders and files are relative to `results`."""
    rows = []
    for result in outcome:
        row = result.row
        rows.append(
            {"row": row.name, "slug": row.slug, "group": row.group, "about": row.about, "state": result.state,
             "verdict": judge_row(result), "metrics": result.metrics, "std": result.spreads,
             "standard_error": result.errors, "labels": result.labels, "published": row.published,
             "source": row.source, "tolerance": row.tolerance, "at_least": row.at_least, "parameters": row.parameters,
             "ours": row.ours, "hours": row.hours, "hardware": row.hardware, "seconds": result.seconds,
             "error": result.error, "runs": [_describe_run(run, results) for run in result.runs]}
        )  # fmt: skip
    return {
        "table": table.name, "title": table.title, "about": table.about.strip(), "kind": table.kind,
        "scale": table.scale, "scales": table.scales, "source": table.path.name, "baseline": table.baseline,
        "groups": list(dict.fromkeys(result.row.group for result in outcome)), "rows": rows,
        "claims": [asdict(claim) for claim in claims], "context": table.context,
        "choices": format_choices(outcome), "report": f"{table.name}/report.html",
    }  # fmt: skip


def _describe_run(run: RunResult, results: Path) -> dict:
    names = ("started", "ended", "code_version", "clean", "versions", "device", "data_fingerprint")
    return {
        "run": run.folder.name, "key": run.run.key, "seed": run.run.seed, "state": run.state, "metrics": run.metrics,
        "seconds": run.seconds, "error": run.error, "folder": run.folder.relative_to(results).as_posix(),
        "files": [path.relative_to(results).as_posix() for path in run_files(run)],
        **{name: run.about.get(name) for name in names},
    }  # fmt: skip


def run_files(run: RunResult) -> list[Path]:
    """The executed notebooks of a run and the files that say its numbers."""
    named = ("run.json", "cost.json", *(f"experiment/{name}" for name in ("result.json", "history.csv", "config.yaml")))
    return sorted(run.folder.glob("[0-9]*.ipynb")) + [path for name in named if (path := run.folder / name).exists()]


def format_evidence(results: list[RowResult], folder: Path) -> str:
    """An HTML table that leads from each run to what made it; links are relative to `folder`."""
    accuracy = results[0].row.kind == "accuracy"
    header = ["row", "seed", *(["mAP"] if accuracy else []), "made (UTC)", "code", "device", "seconds"]
    lines = []
    for result in results:
        for run in result.runs:
            about = run.about
            cells = [
                run.run.seed, *([format_metric(RowResult(result.row, [run]), "mAP")] if accuracy else []),
                about.get("started", "-")[:16].replace("T", " "), about.get("code_version", "-"),
                about.get("device", "-"), f"{run.seconds:.0f}" if run.seconds else "-",
            ]  # fmt: skip
            inner = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
            links = "<br>".join(
                f'<a href="{quote(Path(os.path.relpath(path, folder)).as_posix())}">{path.stem}</a>'
                for path in run_files(run)
            )
            lines.append(f'<tr><th scope="row">{html.escape(result.row.name)}</th>{inner}<td>{links}</td></tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in [*header, "notebooks and files"])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def make_report(table: Table, root: Path, seeds: Iterable[int] | None = None) -> Path:
    """Execute the report notebook on a table as it stands and convert it to report.html; returns its path."""
    from ..reports.convert import export_html

    folder = root / table.name
    parameters = {
        "table": str(table.path.resolve()),
        "scale": table.scale,
        "results": str(root.resolve()),
        "run": False,
        "seeds": list(seeds or []),
    }
    executed = run_notebook(REPORT, folder / f"{REPORT}.ipynb", parameters, progress=False)
    return export_html(executed, folder / "report.html", title=table.title, code="hidden")
