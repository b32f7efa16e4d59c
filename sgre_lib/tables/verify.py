"""Verification: every number of a table derived again from the scores that its runs stored."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base.errors import UserError
from ..evaluation.intervals import COLUMNS
from ..evaluation.metrics import evaluate_scores
from ..evaluation.result_files import read_scores
from .declaration import Table
from .judge import RowResult
from .results import collect_runs
from .run_folder import METRICS, RunResult, read_json, read_resamples, resample_experiment

TOLERANCE = 1e-9
"""Numbers are equal within it: sums may be taken in another order on another machine."""


def verify_table(table: Table, results: Path) -> tuple[str, list[str]]:
    """A line that says what was verified of a table, and a line for each number that differs from what is stored.

    Of each run, result.json and run.json are held against scores.npy, targets.npy and ignore.npy, resamples.npy against
    resampling them again; table.csv and table.json against the runs. A cost cannot be derived again: its run.json and
    the table are held against cost.json.
    """
    outcome = collect_runs(table, results).rows
    runs = {run.run.key: run for result in outcome for run in result.done}
    differences = [line for run in runs.values() for line in _verify_run(run)]
    folder = results / table.name
    if (folder / "table.csv").exists():
        differences += [f"{table.name}/{line}" for line in _verify_table_files(folder, outcome)]
    right = "as in cost.json" if table.kind == "cost" else "every number derived again from the scores"
    told = f"{len(differences)} numbers differ" if differences else right if runs else "nothing to verify"
    return f"{table.name}: {len(runs)} runs, {told}", differences


def _verify_run(run: RunResult) -> Iterator[str]:
    name = run.folder.name
    if run.run.kind == "cost":
        said = read_json(run.folder / "cost.json") or {}
        yield from _differences(f"{name}: run.json", run.metrics, said, METRICS["cost"])
        return
    experiment = run.folder / "experiment"
    said = read_json(experiment / "result.json") or {}
    try:
        scores, targets, ignore = read_scores(experiment)
        rules = (said["threshold"], said["topk"])
        derived = evaluate_scores(scores, targets, ignore, *rules, never_predicted=said["never_predicted"])
    except (UserError, ValueError, KeyError) as error:
        yield f"{name}: cannot be derived again: {' '.join(str(error).split())}"
        return
    labels = (experiment / "label.txt").read_text(encoding="utf-8").splitlines()
    ap = dict(zip(labels, derived["AP"].tolist(), strict=False))
    numbers = {key: value for key, value in derived.items() if isinstance(value, float)}
    yield from _differences(f"{name}: result.json", said, numbers, numbers)
    yield from _differences(f"{name}: result.json: AP of", said.get("AP", {}), ap, ap)
    yield from _differences(f"{name}: run.json", run.metrics, numbers, COLUMNS)
    yield from _differences(f"{name}: run.json: AP of", run.labels, ap, ap)
    stored = read_resamples(run.folder)
    if stored is None or not np.allclose(stored, resample_experiment(experiment), atol=1e-6, equal_nan=True):
        yield f"{name}: resamples.npy is not what resampling the scores gives"


def _verify_table_files(folder: Path, outcome: list[RowResult]) -> Iterator[str]:
    lines = pd.read_csv(folder / "table.csv").set_index("row").to_dict("index")
    listed = {result.row.name: {} for result in outcome}
    for value in (read_json(folder / "table.json") or {}).get("values", []):
        listed.setdefault(value["row"], {})[value["metric"]] = value["value"]
    for result in outcome:
        name = result.row.name
        derived = {**result.metrics, **{f"{metric}_std": value for metric, value in result.spreads.items()}}
        yield from _differences(f"table.csv: {name}", lines.get(name, {}), derived, derived)
        yield from _differences(f"table.json: {name}", listed[name], result.metrics, result.metrics)


def _differences(where: str, said: dict[str, Any], derived: dict[str, Any], names) -> Iterator[str]:
    """A line for each name whose stored value is not the derived one; NaN is stored as null."""
    for name in names:
        a, b = said.get(name), derived.get(name)
        missing = [value is None or (isinstance(value, float) and math.isnan(value)) for value in (a, b)]
        if all(missing):
            continue
        if any(missing) or abs(a - b) > TOLERANCE * max(1.0, abs(b)):
            yield f"{where}: {name} is {a}, derived again {b}"
