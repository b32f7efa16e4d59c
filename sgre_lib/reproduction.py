"""Reproduction: every row of a table through the numbered notebooks, then the table and its report.

A row's folder, `experiments/results/<table>/<row>/`, holds

    declared.json     the parameters it was begun with
    experiment/       the experiment folder
    *.ipynb           the executed notebooks
    row.json          written last: the same parameters, metrics, seconds, provenance. With it, the row is done.
    failed.json       instead: which notebook failed, and why

Papermill calls a run that timed out complete, and only warns about parameters that a notebook does not have. So a row
is done when its own row.json is there and says the declared parameters, and unknown parameters are refused first.
"""

from __future__ import annotations

import csv
import html
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_client.manager import AsyncKernelManager
from tqdm import tqdm

from .datasets.prepared import DATASET_NAMES, prepared_folder
from .errors import UserError
from .files import PROJECT_ROOT, folder_lock, working_root, write_json, write_text
from .provenance import code_version, package_versions
from .settings import TrainSettings
from .tables import (
    COLUMNS,
    RUN_SETTINGS,
    Row,
    RowResult,
    Table,
    format_csv,
    format_html,
    format_markdown,
    judge_claims,
    judge_row,
    read_table,
)

PREPARE, TRAIN, EVALUATE, VISUALIZE, REPORT = (
    "01_prepare_datasets", "03_train", "04_evaluate", "05_visualize_heatmaps", "20_reproduce_tables",
)  # fmt: skip
"""The notebooks that a table is made of."""

KERNEL = "python3"


class LocalKernelManager(AsyncKernelManager):
    """A kernel reached over sockets of this machine, not its network, where the system's path lengths allow it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        if sys.platform == "linux":
            self.transport = "ipc"


@dataclass(frozen=True)
class TableResult:
    """A table after `reproduce`: its declaration, its rows' results, and the files written (table.csv, report.html)."""

    table: Table
    rows: list[RowResult]
    folder: Path

    @property
    def failed(self) -> list[str]:
        """Names of failed rows."""
        return [result.row.name for result in self.rows if result.state == "failed"]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def notebooks_folder() -> Path:
    """The notebooks of the checkout that this package was imported from."""
    return PROJECT_ROOT / "notebooks"


def results_folder() -> Path:
    """Where tables keep their rows."""
    return working_root() / "experiments" / "results"


def find_table(name: str | os.PathLike) -> Path:
    """The file of a table given by name (experiments/tables/<name>.toml) or by path."""
    path = Path(name).expanduser()
    if path.suffix == ".toml":
        return path
    folders = [working_root() / "experiments" / "tables", PROJECT_ROOT / "experiments" / "tables"]
    for folder in folders:
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.toml")})
    raise UserError(
        f"no table {os.fspath(name)!r}: there are {', '.join(known) or 'none'}, or give the path of a .toml file"
    )


def all_tables() -> list[str]:
    """Names of the tables of this project."""
    return sorted(path.stem for path in (PROJECT_ROOT / "experiments" / "tables").glob("*.toml"))


# --- The state of rows -------------------------------------------------------------------------------------------


def row_result(table: Table, row: Row, results: Path | None = None) -> RowResult:
    """What the disk says of a row: done, failed, stale (other parameters were run), interrupted or not run."""
    folder = (results or results_folder()) / table.name / row.slug
    declared = _read_json(folder / "declared.json")
    if declared is None:
        return RowResult(row, "not run", folder=folder)
    if declared.get("parameters") != row.parameters:
        return RowResult(row, "stale", folder=folder)
    done = _read_json(folder / "row.json")
    if (
        done is not None
        and done.get("parameters") == row.parameters
        and (folder / "experiment" / "result.json").exists()
    ):
        metrics = {name: done["metrics"][name] for name in COLUMNS if done["metrics"].get(name) is not None}
        return RowResult(row, "done", metrics, seconds=done.get("seconds", 0.0), folder=folder)
    failed = _read_json(folder / "failed.json")
    if failed is not None:
        return RowResult(row, "failed", error=failed.get("error", ""), folder=folder)
    return RowResult(row, "interrupted", folder=folder)


def _read_json(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def table_results(table: Table, results: Path | None = None) -> list[RowResult]:
    """The state of every row of a table."""
    return [row_result(table, row, results) for row in table.rows]


def list_tables(names: Iterable[str] | None = None, *, scale: str = "paper") -> str:
    """A text that shows tables with the state of their rows."""
    lines = []
    for name in names or all_tables():
        table = read_table(find_table(name), scale)
        results = table_results(table)
        done = sum(result.state == "done" for result in results)
        seconds = sum(result.seconds for result in results)
        spent = f", {seconds / 60:.1f} min spent" if seconds else ""
        lines.append(f"{table.name}: {done} of {len(results)} rows done{spent}  -  {table.title}")
        for result in results:
            metric = f"mAP {100 * result.metrics['mAP']:.1f}" if "mAP" in result.metrics else ""
            lines.append(f"    {result.state:12} {metric:10} {result.row.name}  ({judge_row(result)})")
    return "\n".join(lines)


# --- Running -----------------------------------------------------------------------------------------------------


def reproduce(
    tables: Iterable[str | os.PathLike] | str | os.PathLike = ("mini",),
    *,
    scale: str = "paper",
    only: Iterable[str] | None = None,
    force: bool = False,
    jobs: int = 1,
    results: str | os.PathLike | None = None,
    report: bool = True,
    progress: bool = True,
) -> list[TableResult]:
    """Bring tables up to date: run the rows that are not done, write each table and its report, return the results.

    tables: names in `experiments/tables` or paths of .toml files. scale: `paper`, or `mini` for the same rows on the
    embedded dataset. only: names of rows; the others are shown as they stand. force: run done rows again; what they
    had is moved aside, never deleted. jobs: rows side by side, the CPU's threads shared out. results: the folder for
    results (default experiments/results). A failed row does not stop the others; `TableResult.failed` names it.
    An interrupted row goes on from its last checkpoint.
    """
    names = [tables] if isinstance(tables, (str, os.PathLike)) else list(tables)
    declared = [read_table(find_table(name), scale) for name in names]
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is below 1")
    wanted = list(only) if only is not None else None
    for name in wanted or []:
        if not any(name in (row.name, row.slug) for table in declared for row in table.rows):
            known = ", ".join(row.name for table in declared for row in table.rows)
            raise UserError(f"--only {name}: no such row (there are {known})")
    for notebook in (PREPARE, TRAIN, EVALUATE, VISUALIZE, REPORT):
        if not (notebooks_folder() / f"{notebook}.ipynb").is_file():
            raise UserError(
                f"the notebook {notebooks_folder() / notebook}.ipynb is missing: reproduce needs the whole checkout"
            )
    root = Path(results).expanduser() if results is not None else results_folder()
    return [_reproduce_table(table, root, wanted, force, jobs, report, progress) for table in declared]


def _reproduce_table(
    table: Table, root: Path, only: list[str] | None, force: bool, jobs: int, report: bool, progress: bool
) -> TableResult:
    folder = root / table.name
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, "reproduce"):
        states = {result.row.name: result for result in table_results(table, root)}
        chosen = [row for row in table.rows if only is None or row.name in only or row.slug in only]
        pending = [row for row in chosen if force or states[row.name].state != "done"]
        for row in chosen:
            if row not in pending:
                _say(f"{table.name}: {row.name}: done before, skipped")
        problems = _prepare_data(table, folder, pending, progress)
        runs = [(row, problems.get(row.parameters["data"])) for row in pending]
        if jobs == 1:
            for row, problem in runs:
                _run_row(table, row, root, force, problem, progress)
        elif runs:
            with _shared_threads(jobs), ThreadPoolExecutor(jobs) as pool:
                for future in [pool.submit(_run_row, table, row, root, force, why, False) for row, why in runs]:
                    future.result()
        outcome = table_results(table, root)
        write_table(table, outcome, folder)
        if report and (pending or not (folder / "report.html").exists() or _report_is_old(table, folder, outcome)):
            make_report(table, root)
        if report:
            _say(f"report: {folder / 'report.html'}")
        for result in outcome:
            if result.state == "failed":
                _say(f"{table.name}: {result.row.name}: FAILED: {result.error}")
    return TableResult(table, outcome, folder)


def _say(text: str) -> None:
    tqdm.write(text)


def _report_is_old(table: Table, folder: Path, outcome: list[RowResult]) -> bool:
    """Whether a row, or the table's file (a published value typed in, say), is newer than the report."""
    made = (folder / "report.html").stat().st_mtime
    files = [table.path, *(result.folder / "row.json" for result in outcome if result.state == "done")]
    return any(path.stat().st_mtime > made for path in files)


@contextmanager
def _shared_threads(jobs: int) -> Iterator[None]:
    """Let every kernel that is started inside use its share of the cores only."""
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = share
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _prepare_data(table: Table, folder: Path, rows: list[Row], progress: bool) -> dict[str, str]:
    """Prepare the datasets of these rows that are not prepared yet. Returns, by dataset, why one could not be."""
    problems = {}
    for data in dict.fromkeys(row.parameters["data"] for row in rows):
        if data not in DATASET_NAMES or (prepared_folder(data) / "label.txt").exists():
            continue
        try:
            run_notebook(PREPARE, folder / f"{PREPARE}-{data}.ipynb", {"data": data}, progress=progress)
        except NotebookFailed as failure:
            problems[data] = f"{data} could not be prepared: {failure}"
    return problems


def _run_row(table: Table, row: Row, root: Path, force: bool, problem: str | None, progress: bool) -> None:
    """Run one row to row.json or failed.json."""
    folder = root / table.name / row.slug
    before = row_result(table, row, root)
    if before.state == "stale" or (force and before.state == "done"):
        _move_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    experiment = folder / "experiment"
    started, begun = time.monotonic(), _now()
    spent_before = _training_seconds(experiment)  # of a row that was interrupted and goes on
    for name in ("failed.json", "row.json"):
        if (folder / name).exists():
            os.replace(folder / name, folder / f"previous_{name}")
    write_json(folder / "declared.json", {"parameters": row.parameters})
    steps = notebook_steps(row, experiment, resume=(experiment / "checkpoints" / "last.pth").exists())
    try:
        if problem:
            raise NotebookFailed(problem)
        for notebook, parameters in steps:
            history = experiment / "history.csv" if notebook == TRAIN else None
            label = f"{table.name}: {row.name}: {notebook}"
            run_notebook(
                notebook, folder / f"{notebook}.ipynb", parameters, label=label, progress=progress,
                history=history, epochs=row.parameters.get("epochs", 60),
            )  # fmt: skip
        result = _read_json(experiment / "result.json")
        if result is None:
            raise NotebookFailed(f"{EVALUATE} ended without writing result.json")
    except NotebookFailed as failure:
        write_json(folder / "failed.json", {"parameters": row.parameters, "error": str(failure), "started": begun})
        _say(f"{table.name}: {row.name}: failed: {failure}")
        return
    seconds = spent_before + time.monotonic() - started
    about = {
        "started": begun, "seconds": seconds, "code_version": code_version(), "versions": package_versions(),
        "notebooks": [f"{notebook}.ipynb" for notebook, _ in steps],
        "data_fingerprint": result.get("data_fingerprint"), "device": result.get("device"),
    }  # fmt: skip
    metrics = {name: result.get(name) for name in COLUMNS}
    write_json(folder / "row.json", {"row": row.name, "parameters": row.parameters, "metrics": metrics, **about})
    _say(f"{table.name}: {row.name}: mAP {100 * metrics['mAP']:.1f} in {seconds:.0f} s")


def _training_seconds(experiment: Path) -> float:
    """Seconds of the epochs that an experiment's history.csv has; 0 where there is none yet."""
    try:
        with open(experiment / "history.csv", encoding="utf-8", newline="") as file:
            return sum(float(row["seconds"]) for row in csv.DictReader(file))
    except (OSError, KeyError, ValueError):
        return 0.0


def notebook_steps(row: Row, experiment: Path, *, resume: bool) -> list[tuple[str, dict[str, Any]]]:
    """The notebooks that make a row, in order, each with its parameters."""
    folder = str(experiment.resolve())
    steps = [
        (TRAIN, split_parameters(row.parameters) | {"exp_dir": folder, "resume": resume}),
        (EVALUATE, {"exp_dir": folder}),
    ]
    if row.parameters.get("branches") != "patch":  # that branch aligns no label with patches
        steps.append((VISUALIZE, {"exp_dir": folder}))
    return steps


def split_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Settings as parameters of the training notebook: its own by name, the rest in `more_settings`.

    What a row does not declare takes the default of `TrainSettings`, never the example value that stands in the
    notebook.
    """
    known = notebook_parameters(TRAIN)
    settings = vars(TrainSettings()) | parameters
    own = {name: settings[name] for name in known if name in settings and name not in RUN_SETTINGS}
    return own | {"more_settings": {name: value for name, value in parameters.items() if name not in known}}


def _move_aside(folder: Path) -> None:
    """Give what a row had another name: nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    os.replace(folder, aside)
    _say(f"the earlier run of {folder.name} is kept in {aside}")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


# --- Notebooks ---------------------------------------------------------------------------------------------------


class NotebookFailed(Exception):
    """A notebook stopped with an error. The message is one line: the notebook and the error."""


def notebook_parameters(notebook: str) -> dict[str, Any]:
    """The parameters that a numbered notebook takes: name -> papermill's description."""
    import papermill

    path = notebooks_folder() / f"{notebook}.ipynb"
    return papermill.inspect_notebook(str(path))


def run_notebook(
    notebook: str,
    output: Path,
    parameters: dict[str, Any],
    *,
    label: str | None = None,
    progress: bool = True,
    history: Path | None = None,
    epochs: int = 0,
) -> Path:
    """Execute a numbered notebook with papermill and keep the executed copy at `output`.

    parameters: of JSON types; an unknown one is a UserError, as papermill would only warn. history: a history.csv to
    watch, so that the bar shows epochs. Raises NotebookFailed; the copy then ends at the failing cell.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    known = notebook_parameters(notebook)
    for name in parameters:
        if name not in known:
            raise UserError(f"notebook {notebook} has no parameter {name!r} (it has {', '.join(known)})")
    output.parent.mkdir(parents=True, exist_ok=True)
    with _watch(label or notebook, history, epochs, progress):
        try:
            papermill.execute_notebook(
                str(notebooks_folder() / f"{notebook}.ipynb"),
                str(output),
                parameters=parameters,
                kernel_name=KERNEL,
                cwd=str(notebooks_folder()),
                progress_bar=False,
                coalesce_streams=True,
                kernel_manager_class=LocalKernelManager,
            )
        except PapermillExecutionError as error:
            raise NotebookFailed(f"{notebook}: {error.ename}: {' '.join(str(error.evalue).split())[:300]}") from None
        except RuntimeError as error:  # a kernel that died or did not answer
            raise NotebookFailed(f"{notebook}: {' '.join(str(error).split())[:300]}") from None
    return output


@contextmanager
def _watch(label: str, history: Path | None, epochs: int, progress: bool) -> Iterator[None]:
    """A progress bar beside a running notebook: epochs, where there is a history to read, else seconds."""
    stop = threading.Event()
    bar = tqdm(total=epochs or None if history else None, desc=label, unit="epoch", leave=False, disable=not progress)

    def follow() -> None:
        while not stop.wait(0.5):
            if history is not None and history.exists():
                lines = history.read_text(encoding="utf-8").splitlines()
                if len(lines) > 1:
                    bar.n = len(lines) - 1
                    bar.set_postfix_str(f"EMA mAP {100 * float(lines[-1].split(',')[4]):.1f}", refresh=False)
            bar.refresh()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.close()


# --- Table and report --------------------------------------------------------------------------------------------


def write_table(table: Table, outcome: list[RowResult], folder: Path) -> None:
    """Write table.csv, table.md, table.html and table.json (state, verdicts and claims)."""
    write_text(folder / "table.csv", format_csv(outcome))
    write_text(folder / "table.md", format_markdown(table, outcome))
    write_text(folder / "table.html", format_html(table, outcome))
    rows = [
        {"row": result.row.name, "state": result.state, "verdict": judge_row(result), "metrics": result.metrics,
         "parameters": result.row.parameters, "seconds": result.seconds, "folder": result.row.slug}
        for result in outcome
    ]  # fmt: skip
    claims = [{"claim": text, "holds": holds} for text, holds in judge_claims(table, outcome)]
    write_json(folder / "table.json", {"table": table.name, "title": table.title, "rows": rows, "claims": claims})


def format_evidence(results: list[RowResult], folder: Path) -> str:
    """An HTML table that leads from each row to what made it; links are relative to `folder`."""
    header = ["row", "mAP", "made (UTC)", "code", "device", "seconds", "notebooks and files"]
    lines = []
    for result in results:
        about = _read_json(result.folder / "row.json") or {}
        files = sorted(result.folder.glob("[0-9]*.ipynb")) + [
            path for name in ("result.json", "history.csv", "config.yaml")
            if (path := result.folder / "experiment" / name).exists()
        ]  # fmt: skip
        links = [f'<a href="{quote(path.relative_to(folder).as_posix())}">{path.stem}</a>' for path in files]
        value = f"{100 * result.metrics['mAP']:.1f}" if "mAP" in result.metrics else "-"
        made, code = about.get("started", "-"), about.get("code_version", "-")
        cells = [value, made[:16].replace("T", " "), code, about.get("device", "-")]
        seconds = f"{result.seconds:.0f}" if result.seconds else "-"
        inner = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in [*cells, seconds])
        lines.append(
            f'<tr><th scope="row">{html.escape(result.row.name)}</th>{inner}<td>{"<br>".join(links)}</td></tr>'
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in header)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def make_report(table: Table, root: Path) -> Path:
    """Execute the report notebook on a table as it stands and convert it to report.html; returns its path."""
    from .report import export_html

    folder = root / table.name
    parameters = {
        "table": str(table.path.resolve()),
        "scale": table.scale,
        "results": str(root.resolve()),
        "run": False,
    }
    executed = run_notebook(REPORT, folder / f"{REPORT}.ipynb", parameters, progress=False)
    return export_html(executed, folder / "report.html", title=table.title, code="hidden")
