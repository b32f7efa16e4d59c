"""The report: notebook 20 executed for each table, notebook 21 for all, and an offline folder of them and of every run.

    index.html                  all tables, both scales apart: notebook 21; with all_tables.csv
    tables/<table>.html         a table: notebook 20; with <table>.csv and .md
    runs/<run>/<notebook>.html  the executed notebooks of each run that has begun, with the small files of its numbers

Every number of ours in a table leads to its run's pages. A notebook is executed again only where its runs, its table
file or the code behind it have changed; `reports.folder` makes the pages, again only where they have changed.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..base.errors import UserError
from ..base.files import fingerprint, write_text
from ..base.lock import folder_lock
from ..base.places import working_root
from ..reports.convert import export_html
from ..reports.folder import Page, make_folder, write_folder
from .declaration import Table
from .formats import write_table
from .notebooks import REPORT, START, NotebookFailed, notebooks_folder, run_notebook, say
from .plan import read_tables, results_folder
from .results import TableResult, collect_runs
from .run_folder import RunResult

CODE = ("tables", "figures", "reports", "evaluation")
"""Packages whose code decides what the two notebooks show."""


def build_report(
    out: str | os.PathLike | None = None,
    *,
    tables: Iterable[str | os.PathLike] | str | os.PathLike | None = None,
    scale: str | None = None,
    seeds: Iterable[int] | None = None,
    results: str | os.PathLike | None = None,
    progress: bool = True,
) -> Path:
    """Write the report, or bring it up to date, and return the path of its index.html.

    out: a new or empty folder, or an earlier report (default experiments/report). tables: names or paths of .toml
    files; None: all of this project. scale: `paper` or `mini` only; None: both. seeds: instead of the declared ones.
    results: where runs are (default experiments/results). Raises UserError before anything is executed.
    """
    folder = Path(out).expanduser() if out is not None else working_root() / "experiments" / "report"
    root, seeds = results_folder(results), list(seeds) if seeds else None
    declared = read_tables(tables, scale, seeds)
    chosen = [table for table in declared if scale in (None, table.scale)]  # others have the other scale alone
    if tables is not None and chosen != declared:
        raise UserError(f"{next(table.path for table in declared if table not in chosen)} has no scale {scale!r}")
    make_folder(folder)
    pages, files, shown, runs = [], [], [], {}
    for table in tqdm(chosen, desc="tables", unit="table", leave=False, disable=not progress):
        found = collect_runs(table, root)
        try:
            notebook = execute_table(found, seeds)
        except NotebookFailed as failure:  # an earlier page stays, and other tables go on
            say(f"{table.name}: THE PAGE FAILED: {failure}")
            notebook = found.folder / f"{REPORT}.ipynb"
        pages.append(Page(notebook, _address(table), table.title, "hidden", [HOME]))
        files += [(found.folder / f"table.{kind}", f"tables/{table.name}.{kind}") for kind in ("csv", "md")]
        shown.append(found)
        for key, run in found.runs_by_key.items():
            if run.state != "not run":
                runs.setdefault(key, (run, []))[1].append(found)
    for run, users in runs.values():
        pages += _run_pages(run, users)
        files += [(path, f"runs/{run.folder.name}/{path.name}") for path in run.files]
    files.append((root / "all_tables.csv", "all_tables.csv"))
    given = {} if tables is None else dict.fromkeys(str(table.path.resolve()) for table in chosen)
    parameters = {"tables": list(given), "scale": scale or "", "seeds": seeds or [], "results": str(root.resolve())}
    start = _execute(START, root, parameters, shown)
    return write_folder(folder, [Page(start, "index.html", code="hidden"), *pages], files, progress=progress)


def write_report(found: TableResult, seeds: list[int] | None = None) -> Path:
    """A table's report as one HTML file, report.html, made again where something has changed; returns its path.

    Raises NotebookFailed where the notebook does not run through.
    """
    notebook, page = execute_table(found, seeds), found.folder / "report.html"
    if not page.exists() or page.stat().st_mtime_ns < notebook.stat().st_mtime_ns:
        export_html(notebook, page, title=found.table.title, code="hidden")
    return page


def execute_table(found: TableResult, seeds: list[int] | None = None) -> Path:
    """Notebook 20 executed on a table as it stands, in its folder, beside table.csv and the like; returns its path."""
    table, results = found.table, str(found.root.resolve())
    parameters = {"table": str(table.path.resolve()), "scale": table.scale, "seeds": seeds or [], "run": False}
    return _execute(REPORT, found.folder, parameters | {"results": results}, [found])


def _execute(notebook: str, folder: Path, parameters: dict[str, Any], shown: list[TableResult]) -> Path:
    """Execute a notebook that shows these tables, in a folder, unless what it is made from is as it was.

    A table's own page is made with its files. A notebook that fails or is interrupted leaves the old one.
    """
    output, stamp = folder / f"{notebook}.ipynb", folder / f".{notebook}.stamp"
    source = (notebooks_folder() / output.name).read_bytes()
    folders = [Path(__file__).resolve().parents[1] / name for name in CODE]
    code = [path.read_bytes() for package in folders for path in sorted(package.glob("*.py"))]
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, "report", wait=True):
        stamps = [said for found in shown for said in _stamps(found)]
        mark = fingerprint([source, *code, json.dumps(parameters, sort_keys=True), *stamps])
        if not (output.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == mark):
            if notebook == REPORT:
                write_table(*shown)
            part = folder / f".{notebook}.part.ipynb"
            run_notebook(notebook, part, parameters, progress=False)
            os.replace(part, output)
            write_text(stamp, mark)
    return output


def _stamps(found: TableResult) -> Iterator[str]:
    """Path, time of the last change and size of every file that decides what a table's page shows."""
    paths = [found.table.path, *sorted((found.root / "runs").glob("cost-*/run.json"))]
    for run in found.runs_by_key.values():
        named = ("declared.json", "failed.json", "resamples.npy", "experiment/targets.npy")
        paths += [*run.notebooks, *run.files, *(run.folder / name for name in named)]
        paths += sorted((run.folder / "experiment" / "visualization").glob("*/heatmap.*"))
    for path in paths:
        with contextlib.suppress(OSError):  # it is not there
            said = path.stat()
            yield f"{path} {said.st_mtime_ns} {said.st_size}"


HOME = ("index.html", "All tables")


def _address(table: Table) -> str:
    return f"tables/{table.name}.html"


def _run_pages(run: RunResult, users: list[TableResult]) -> Iterator[Page]:
    """The executed notebooks of a run, each with a trail to the start page, the tables with the run, and the others."""
    trail = [HOME]
    for found in users:
        row = next(row for row in found.rows if run.run.key in {one.run.key for one in row.runs})
        trail.append((f"{_address(found.table)}#runs-{row.row.slug}", f"{found.table.title}: {row.row.name}"))
    places = {path: f"runs/{run.folder.name}/{path.stem}.html" for path in run.notebooks}
    for path, address in places.items():
        others = [(other, one.stem.replace("_", " ")) for one, other in places.items() if one != path]
        yield Page(path, address, trail=[*trail, *others])
