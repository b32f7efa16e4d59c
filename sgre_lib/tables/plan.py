"""Which tables there are, which of their runs are still to do, and how long those are expected to take."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import UserError
from ..base.places import PROJECT_ROOT, working_root
from .declaration import SCALES, Row, Run, Table, read_table, table_scales
from .run_folder import read_run


def results_folder(results: str | os.PathLike | None = None) -> Path:
    """Where runs and tables are kept: the folder that is named or, by default, experiments/results."""
    return Path(results).expanduser() if results else working_root() / "experiments" / "results"


def find_table(name: str | os.PathLike) -> Path:
    """The file of a table given by name (experiments/tables/<name>.toml) or by path."""
    path = Path(name).expanduser()
    if path.suffix == ".toml":
        return path
    folders = [root / "experiments" / "tables" for root in (working_root(), PROJECT_ROOT)]
    for folder in folders:
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    known = ", ".join(sorted({path.stem for folder in folders for path in folder.glob("*.toml")})) or "none"
    raise UserError(f"no table {os.fspath(name)!r}: there are {known}, or give the path of a .toml file")


def all_tables() -> list[str]:
    """Names of the tables of this project."""
    return sorted(path.stem for path in (PROJECT_ROOT / "experiments" / "tables").glob("*.toml"))


def table_argument(table: Table) -> str:
    """How a command names a table: by its name where that finds it, else by its path."""
    return table.path.stem if table.path.stem in all_tables() else str(table.path.resolve())


def read_tables(
    tables: Iterable[str | os.PathLike] | str | os.PathLike | None = None,
    scale: str | None = "paper",
    seeds: Iterable[int] | None = None,
) -> list[Table]:
    """Declared tables by name or path; None: all of this project. scale, seeds: see `read_table`; None: every scale."""
    if scale not in (None, *SCALES):
        raise UserError(f"--scale {scale}: choose from {', '.join(SCALES)}")
    names = all_tables() if tables is None else [tables] if isinstance(tables, (str, os.PathLike)) else tables
    declared: dict[str, Table] = {}
    for path in map(find_table, names):
        for one in table_scales(path) if scale is None else [scale]:
            table = read_table(path, one, list(seeds) if seeds else None)
            other = declared.setdefault(table.name, table)
            if other.path.resolve() != path.resolve():
                raise UserError(f"{path} and {other.path} would both be the table {table.name}: rename one")
    return list(declared.values())


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be executed, and the first row that asks for it."""

    table: Table
    row: Row
    run: Run
    state: str

    @property
    def label(self) -> str:
        """Table, row and, where the row has several, the seed."""
        seed = f", seed {self.run.seed}" if len(self.row.seeds) > 1 else ""
        return f"{self.table.name}: {self.row.name}{seed}"


def plan_runs(
    declared: list[Table],
    results: Path,
    *,
    only: Iterable[str] | None = None,
    runs: Iterable[str] | None = None,
    force: bool = False,
) -> list[PlannedRun]:
    """The runs that are not done (with force: all), each once, in the order of tables, rows and seeds.

    only: names of rows. runs: keys of runs. Raises UserError for one that no table has.
    """
    only, runs = (chosen if chosen is None else list(chosen) for chosen in (only, runs))
    every = [(table, row, run) for table in declared for row in table.rows for run in row.runs]
    for name in only or []:
        if not any(name in (row.name, row.slug) for _, row, _ in every):
            known = ", ".join(dict.fromkeys(row.name for _, row, _ in every))
            raise UserError(f"--only {name}: no such row (there are {known})")
    for key in runs or []:
        if not any(key == run.key for *_, run in every):
            raise UserError(f"--only-run {key}: no such run (--dry-run lists them)")
    plan: dict[str, PlannedRun] = {}
    for table, row, run in every:
        if (only is None or row.name in only or row.slug in only) and (runs is None or run.key in runs):
            first = plan.setdefault(run.key, PlannedRun(table, row, run, read_run(run, results).state))
            most = max(first.run.heatmaps, run.heatmaps)  # of the rows that share it
            plan[run.key] = replace(first, run=replace(first.run, heatmaps=most))
    return [planned for planned in plan.values() if force or planned.state != "done"]


def describe_plan(plan: list[PlannedRun], jobs: int = 1) -> str:
    """The plan as text: a line a run with its key, state and expected time, and their sum."""
    lines = [
        f"{number:4}  {item.run.key}  {item.state:12} {expected_time([item.run]):>10}  {item.label}"
        for number, item in enumerate(plan, 1)
    ]
    total = [f"{len(plan)} runs", expected_time(item.run for item in plan)] if plan else ["nothing to run"]
    known = sum(item.run.hours or 0 for item in plan)
    if jobs > 1 and known:
        total.append(f"about {format_hours(known / jobs)} with {jobs} side by side")
    return "\n".join([*lines, ", ".join(total)])


def format_hours(hours: float) -> str:
    """A time as a person says it: `45 s`, `12 min`, `7.5 h`, `1,200 h`."""
    if hours < 1.5 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1.5:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"


def expected_time(runs: Iterable[Run]) -> str:
    """The declared hours of runs together, our estimates, and how many runs declare none."""
    runs = list(runs)
    known = [run.hours for run in runs if run.hours is not None]
    more = f" and {len(runs) - len(known)} runs of unknown length" if len(known) < len(runs) else ""
    return format_hours(sum(known)) + more if known else "unknown"
