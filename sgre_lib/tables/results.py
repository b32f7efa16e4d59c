"""Results as pandas tables, from the runs that are stored: values, labels, runs, paired differences, claims.

Everything else is made from them: the files of a table, the report, figures, and what users slice in their notebooks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path

import pandas as pd

from .declaration import Table, read_table
from .judge import PAIR_COLUMNS, RowResult, format_metric, judge_pair, judge_row
from .plan import expected_time, find_table, format_hours, read_tables, results_folder
from .run_folder import METRICS, RunResult, read_run

VALUE_COLUMNS = (
    "table", "scale", "group", "row", "metric", "value", "deviation", "standard_error", "low", "high", "seeds",
    "published", "gap", "state", "link",
)  # fmt: skip


def read_results(
    table: str | os.PathLike,
    scale: str = "paper",
    *,
    seeds: Iterable[int] | None = None,
    results: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """A table's results as data: one line for each row and metric, in the table's order.

    table: a name in `experiments/tables` or the path of a .toml file. scale: `paper` or `mini`. seeds: instead of those
    declared. results: the folder of results (default experiments/results). Columns:

    table, scale, group, row, metric
        what the line is about; `metric` is mAP, CP, ... top3_OF1, or of a cost table parameters, gflops, ...
    value, deviation, standard_error, low, high, seeds
        the mean over the seeds that are done, their number, their sample standard deviation (from two on), the standard
        error of the mean over test images and seeds, and the ends of its interval of about 95 %
    published, gap
        what the paper prints, and value - published
    state, link
        done, failed, interrupted, partly done or not run; the folder of the run (with several seeds the first one's),
        relative to the folder of results

    Values are fractions or, of a cost table, base units (operations / 1e9, bytes, images a second); NaN where there is
    nothing. For example, the rows of the ablations by their F1, and the whole table as papers print it:

    >>> found = sgre_lib.read_results("ablations", scale="mini")
    >>> found[found.metric == "OF1"].sort_values("value", ascending=False)[["row", "value", "low", "high"]]
    >>> (100 * found.pivot(index="row", columns="metric", values="value")).round(1)
    """
    return read_table_result(table, scale, seeds=seeds, results=results).values


def read_table_result(
    table: str | os.PathLike,
    scale: str = "paper",
    *,
    seeds: Iterable[int] | None = None,
    results: str | os.PathLike | None = None,
) -> TableResult:
    """What the stored runs say of a table; see `read_results`."""
    return collect_runs(read_table(find_table(table), scale, list(seeds) if seeds else None), results_folder(results))


def collect_runs(table: Table, results: Path) -> TableResult:
    """What the runs stored in the folder `results` say of a declared table."""
    rows = [RowResult(row, [read_run(run, results) for run in row.runs]) for row in table.rows]
    return TableResult(table, rows, results)


@dataclass(frozen=True)
class TableResult:
    """A table, its rows' results, and the folder of results that holds them. The properties are pandas tables.

    report_problem: of `reproduce`, why report.html could not be made anew; empty where it could.
    """

    table: Table
    rows: list[RowResult]
    root: Path
    report_problem: str = ""

    @property
    def folder(self) -> Path:
        """Where the table's files are: table.csv, table.md, table.html, table.json, report.html."""
        return self.root / self.table.name

    @property
    def failed(self) -> list[str]:
        """Names of failed rows."""
        return [row.row.name for row in self.rows if row.state == "failed"]

    @property
    def runs_by_key(self) -> dict[str, RunResult]:
        """The runs behind the rows, each once, however many rows share it."""
        return {run.run.key: run for row in self.rows for run in row.runs}

    def link(self, run: RunResult) -> str | None:
        """A run's folder relative to the folder of results; None before it has begun."""
        return None if run.state == "not run" else run.folder.relative_to(self.root).as_posix()

    @cached_property
    def values(self) -> pd.DataFrame:
        """One line for each row and metric; see `read_results`."""
        lines = []
        for result in self.rows:
            about = [self.table.name, self.table.scale, result.row.group, result.row.name]
            for metric in METRICS[self.table.kind]:
                measured = [said.get(metric, nan) for said in (result.metrics, result.spreads, result.errors)]
                measured += [*(result.interval(metric) or (nan, nan)), len(result.values(metric))]
                published = float(result.row.published.get(metric, nan))
                compared = [published, measured[0] - published]
                lines.append([*about, metric, *measured, *compared, result.state, self.link(result.shown)])
        return pd.DataFrame(lines, columns=list(VALUE_COLUMNS))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One line for each run of each row: seed, state, mAP, when, how long (seconds), with which code, where."""
        lines = [
            {"row": row.row.name, "seed": run.run.seed, "state": run.state, "mAP": run.metrics.get("mAP", nan),
             "started": run.about.get("started"), "seconds": run.seconds or nan,
             "code_version": run.about.get("code_version"), "device": run.about.get("device"),
             "folder": self.link(run), "error": run.error or None}
            for row in self.rows
            for run in row.runs
        ]  # fmt: skip
        return pd.DataFrame(lines)

    @cached_property
    def labels(self) -> pd.DataFrame:
        """AP of each label (the index) for each row that has it (the columns), means over seeds."""
        frame = pd.DataFrame({row.row.name: pd.Series(row.labels, dtype=float) for row in self.rows if row.labels})
        names = dict.fromkeys(name for row in self.rows for name in row.labels)
        return frame.reindex(list(names)).rename_axis("label")

    @cached_property
    def claims(self) -> pd.DataFrame:
        """One line for each claim: its verdict, the paired difference with its interval, and all in a sentence."""
        rows = {row.row.name: row for row in self.rows}
        pairs = [judge_pair(rows[one["better"]], rows[one["than"]], one["metric"]) for one in self.table.claims]
        return pd.DataFrame(pairs, columns=list(PAIR_COLUMNS))

    @property
    def reference(self) -> RowResult:
        """The row that others are compared with: the one that claims call better most often, else the first."""
        called = Counter(claim["better"] for claim in self.table.claims).most_common(1)
        return next((row for row in self.rows if called and row.row.name == called[0][0]), self.rows[0])

    def differences(self, metric: str = "mAP") -> pd.DataFrame:
        """The reference row minus each other row, in the columns of `claims`: as if it were claimed to be better.

        Rows that share all their runs with the reference are left out.
        """
        own = [run.run.key for run in self.reference.runs]
        others = [row for row in self.rows if [run.run.key for run in row.runs] != own]
        return pd.DataFrame((judge_pair(self.reference, row, metric) for row in others), columns=list(PAIR_COLUMNS))

    def describe_state(self) -> str:
        """The state in a line: rows and runs, and the time they took and will take."""
        states = [run.state for run in self.runs_by_key.values()]
        words = [self.describe_rows(), f"{states.count('done')} of {len(states)} runs", self.describe_time()]
        return ", ".join(filter(None, words))

    def describe_rows(self) -> str:
        """How many rows there are of each state: `2 of 4 rows done, 1 failed, 1 not run`."""
        counts = Counter(row.state for row in self.rows)
        done = f"{counts.pop('done', 0)} of {len(self.rows)} rows done"
        return ", ".join([done, *(f"{number} {state}" for state, number in counts.items())])

    def describe_time(self) -> str:
        """Time measured, time expected for what is missing, and on what: each run once."""
        seconds = sum(run.seconds for run in self.runs_by_key.values())
        missing = [run.run for run in self.runs_by_key.values() if run.state != "done"]
        words = [f"{format_hours(seconds / 3600)} measured"] if seconds else []
        if missing:
            hardware = ", ".join(dict.fromkeys(row.row.hardware for row in self.rows if row.row.hardware))
            words.append(f"{expected_time(missing)} to go" + (f" on {hardware}" if hardware else ""))
        return ", ".join(words)


def list_tables(
    names: Iterable[str | os.PathLike] | None = None, *, scale: str | None = None, results: Path | None = None
) -> str:
    """A text that shows tables with state and cost, at each scale they have; named tables also row by row."""
    lines, path = [], None
    for table in read_tables(names, scale):
        found = collect_runs(table, results_folder(results))
        if table.path != path:
            path = table.path
            lines.append(f"{path.stem}: {table.title}")
        lines.append(f"    {table.scale:6} {found.describe_state()}")
        for row in found.rows if names is not None else []:
            metric = f"mAP {format_metric(row, 'mAP')}" if "mAP" in row.metrics else ""
            lines.append(f"        {row.state:12} {metric:14} {row.row.name}  ({judge_row(row)})")
    return "\n".join(lines)
