"""Measured rows against what was declared: means over seeds, verdicts, claims, and the table as CSV, Markdown and HTML.

No value is shown with more digits than its evidence has: one decimal of a percent where its standard error is below
half a point, none where it is larger. With several seeds a value is their mean, followed by their standard deviation.
The standard error is that of `evidence.standard_error`: of the test images and, with several seeds, of the seeds. CSV
and JSON keep full precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.intervals import COLUMNS, compare, spread, standard_error
from .declaration import Row, Run, Table

DECIMALS_BELOW = 0.005
"""Standard error, as a fraction, below which a percentage gets its decimal."""


@dataclass(frozen=True)
class RunResult:
    """What the disk says of a run. state: done, failed, interrupted or not run.

    metrics: fractions; of a cost run what `COST_COLUMNS` names. labels: AP of each label. resamples: (R, 13), each
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


@dataclass(frozen=True)
class RowResult:
    """A row with its runs, one a seed."""

    row: Row
    runs: list[RunResult]

    @property
    def done(self) -> list[RunResult]:
        return [run for run in self.runs if run.state == "done"]

    @property
    def state(self) -> str:
        """done, failed (a run has), interrupted, partly done (seeds are missing) or not run."""
        states = [run.state for run in self.runs]
        if all(state == "done" for state in states):
            return "done"
        first = next((state for state in ("failed", "interrupted") if state in states), None)
        return first or ("partly done" if "done" in states else "not run")

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Means over the seeds that are done."""
        names = self.done[0].metrics if self.done else {}
        return {name: float(np.mean(values)) for name in names if (values := self.values(name))}

    @cached_property
    def labels(self) -> dict[str, float]:
        """Each label's AP, the mean over the seeds that are done."""
        names = self.done[0].labels if self.done else {}
        return {name: float(np.mean([run.labels[name] for run in self.done])) for name in names}

    @cached_property
    def spreads(self) -> dict[str, float]:
        """Sample standard deviation over seeds, of metrics with at least two."""
        return {name: spread(self.values(name)) for name in self.metrics if len(self.values(name)) > 1}

    @cached_property
    def errors(self) -> dict[str, float]:
        """Standard error of each metric's mean, where scores are stored."""
        found = {name: standard_error(self.values(name), self.resampled(name)) for name in COLUMNS if self.values(name)}
        return {name: error for name, error in found.items() if error is not None}

    def values(self, metric: str) -> list[float]:
        """The metric of each seed that is done."""
        return [run.metrics[metric] for run in self.done if run.metrics.get(metric) is not None]

    def resampled(self, metric: str) -> list[np.ndarray]:
        """The metric on the resampled test images, for each seed; empty where one has no stored scores."""
        stored = [run.resamples for run in self.done]
        if any(array is None for array in stored):
            return []
        return [array[:, COLUMNS.index(metric)] for array in stored]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """About 95 % for the metric's mean: 1.96 standard errors to each side."""
        reach = 1.96 * self.errors.get(metric, 0.0)
        return (self.metrics[metric] - reach, self.metrics[metric] + reach) if reach else None

    @property
    def seconds(self) -> float:
        return sum(run.seconds for run in self.runs)

    @property
    def error(self) -> str:
        """What stopped the first run that failed."""
        return next((run.error for run in self.runs if run.state == "failed"), "")

    @property
    def folder(self) -> Path | None:
        """The folder of the first run that is done, else of the first."""
        return (self.done or self.runs)[0].folder


@dataclass(frozen=True)
class ClaimResult:
    """What became of a claim. verdict: holds, does not hold, not decided or not measured; sentence: in words.

    evidence: `evidence.compare`'s difference, low, high and probability; empty where it could not be computed.
    """

    better: str
    than: str
    metric: str
    verdict: str
    sentence: str
    evidence: dict[str, float] = field(default_factory=dict)


def distinct_rows(results: list[RowResult]) -> list[RowResult]:
    """The rows without those that share all their runs with a row before them."""
    first: dict[tuple[str, ...], RowResult] = {}
    for result in results:
        first.setdefault(tuple(run.run.key for run in result.runs), result)
    return list(first.values())


def decimals(result: RowResult, metric: str) -> int:
    """Decimals that a percentage of this row is shown with."""
    return int(result.errors.get(metric, 0.0) < DECIMALS_BELOW)


def format_metric(result: RowResult, metric: str) -> str:
    """A row's metric in percent, `93.7`, or with several seeds `93.7 ± 0.4`; a dash where there is none."""
    places = decimals(result, metric)
    text = percent(result.metrics.get(metric), places)
    if text != "-" and metric in result.spreads:
        text += f" ± {max(100 * result.spreads[metric], 10**-places):.{places}f}"
    return text


def percent(value: float | None, places: int = 1) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.{places}f}"


def judge_row(result: RowResult) -> str:
    """The verdict on a row, in words."""
    row = result.row
    if result.state != "done":
        return f"failed: {result.error}" if result.state == "failed" else _count_seeds(result)
    if row.kind == "cost":
        return "measured"
    words = []
    for metric, value in row.published.items():
        gap = result.metrics.get(metric, math.nan) - value
        if math.isnan(gap):
            words.append(f"no {metric} to compare")
        elif abs(gap) <= row.tolerance + 1e-9:  # 0.895 is within 0.005 of 0.9, whatever binary says
            words.append(f"{metric} reproduced")
        else:
            side = "above" if gap > 0 else "below"
            words.append(f"{metric} {side} published by {percent(abs(gap), decimals(result, metric))}")
    for metric, floor in row.at_least.items():
        reached = result.metrics.get(metric, -1) >= floor
        words.append(f"{metric} {'reaches' if reached else 'misses'} {100 * floor:.1f}")
    nothing = "measured; nothing is published for mini" if row.stand_in else "published value not on file"
    return "; ".join(words) or nothing


def _count_seeds(result: RowResult) -> str:
    return result.state + (f" ({len(result.done)} of {len(result.runs)} seeds)" if len(result.runs) > 1 else "")


def judge_claims(table: Table, results: list[RowResult]) -> list[ClaimResult]:
    """What became of each claim.

    A claim holds, or does not, where the interval of the difference leaves out 0; else the evidence does not decide.
    """
    by_name = {result.row.name: result for result in results}
    return [_judge_claim(by_name[claim["better"]], by_name[claim["than"]], claim["metric"]) for claim in table.claims]


def _judge_claim(a: RowResult, b: RowResult, metric: str) -> ClaimResult:
    names = (a.row.name, b.row.name, metric)
    if metric not in a.metrics or metric not in b.metrics:
        return ClaimResult(*names, "not measured", f"{a.row.name} against {b.row.name} in {metric}")
    both = f"{a.row.name} ({format_metric(a, metric)}) against {b.row.name} ({format_metric(b, metric)}) in {metric}"
    if not (a.resampled(metric) and b.resampled(metric)) or not _same_test_set(a.done + b.done):
        return ClaimResult(*names, "not decided", f"{both}: no scores of the same test images to compare")
    found = compare(a.resampled(metric), b.resampled(metric), a.values(metric), b.values(metric))
    verdict = "holds" if found["low"] > 0 else "does not hold" if found["high"] < 0 else "not decided"
    relation = {"holds": "is above", "does not hold": "is below"}.get(verdict, "cannot be told from")
    counts = {len(a.done), len(b.done)}
    seeds = "one seed each" if counts == {1} else " and ".join(f"{len(side.done)} seeds" for side in (a, b))
    sentence = (
        f"{a.row.name} ({format_metric(a, metric)}) {relation} {b.row.name} ({format_metric(b, metric)}) in {metric}: "
        f"the difference is {100 * found['difference']:+.1f} points, 95 % interval "
        f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f} over test images ({seeds})"
    )
    return ClaimResult(*names, verdict, sentence, found)


def _same_test_set(runs: list[RunResult]) -> bool:
    """Whether all runs were scored on the same images, targets and ignored entries."""

    def truth(run: RunResult) -> list[np.ndarray]:
        paths = [run.folder / "experiment" / name for name in ("targets.npy", "ignore.npy")]
        return [np.load(path) for path in paths if path.exists()]

    if len({run.resamples.shape for run in runs}) > 1:
        return False
    first, *others = (truth(run) for run in runs)
    return all(len(other) == len(first) and all(map(np.array_equal, first, other)) for other in others)
