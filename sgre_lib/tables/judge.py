"""Measured rows against what was declared: means over seeds, verdicts, claims, paired differences, and their words.

No value is shown with more digits than its evidence has: one decimal of a percent where its standard error is below
half a point, none where it is larger. With several seeds a value is their mean, followed by their standard deviation.
The standard error is that of `intervals.standard_error`: of the test images and, with several seeds, of the seeds.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..evaluation.intervals import COLUMNS, compare, spread, standard_error
from .declaration import Row
from .run_folder import RunResult

DECIMALS_BELOW = 0.005
"""Standard error, as a fraction, below which a percentage gets its decimal."""

PAIR_COLUMNS = ("better", "than", "metric", "verdict", "difference", "low", "high", "probability", "sentence")
"""What is said of a pair of rows, in the order of the columns of `TableResult.claims` and `differences`."""


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
        states = {run.state for run in self.runs}
        mixed = next((state for state in ("failed", "interrupted") if state in states), "partly done")
        return mixed if len(states) > 1 else states.pop()

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
        stored = [run.resamples for run in self.done if run.resamples is not None]
        return [array[:, COLUMNS.index(metric)] for array in stored] if len(stored) == len(self.done) else []

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
    def shown(self) -> RunResult:
        """The first run that is done, else the first that has begun, else the first."""
        return (self.done or [run for run in self.runs if run.state != "not run"] or self.runs)[0]


def format_percent(value: float | None, deviation: float | None = None, error: float | None = None) -> str:
    """A fraction in percent, `93.7`, or with a deviation over seeds `93.7 ± 0.4`; a dash where there is none.

    error: the value's standard error, which decides the digits; without one, one decimal.
    """
    if value is None or not math.isfinite(value):
        return "-"
    places = decimals(error)
    text = f"{100 * value:.{places}f}"
    known = deviation is not None and math.isfinite(deviation)
    return text + (f" ± {max(100 * deviation, 10**-places):.{places}f}" if known else "")


def decimals(error: float | None) -> int:
    """Decimals that a percentage with this standard error is shown with."""
    return int(error is None or math.isnan(error) or error < DECIMALS_BELOW)


def format_metric(result: RowResult, metric: str) -> str:
    """A row's metric as `format_percent` says it."""
    return format_percent(result.metrics.get(metric), result.spreads.get(metric), result.errors.get(metric))


def judge_row(result: RowResult) -> str:
    """The verdict on a row, in words."""
    row = result.row
    if result.state != "done":
        seeds = f" ({len(result.done)} of {len(result.runs)} seeds)" if len(result.runs) > 1 else ""
        return f"failed: {result.error}" if result.state == "failed" else result.state + seeds
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
            shown = format_percent(abs(gap), error=result.errors.get(metric))
            words.append(f"{metric} {'above' if gap > 0 else 'below'} published by {shown}")
    for metric, floor in row.at_least.items():
        reached = result.metrics.get(metric, -1) >= floor
        words.append(f"{metric} {'reaches' if reached else 'misses'} {100 * floor:.1f}")
    nothing = "measured; nothing is published for mini" if row.stand_in else "published value not on file"
    return "; ".join(words) or nothing


def judge_pair(a: RowResult, b: RowResult, metric: str) -> dict[str, Any]:
    """What may be said of "a is better than b": names, verdict, numbers of `intervals.compare`, and all in a sentence.

    It holds, or does not, where the interval of the difference leaves out 0; else the evidence does not decide. The
    numbers are NaN where there are no scores of the same test images to compare.
    """
    line = dict.fromkeys(PAIR_COLUMNS, math.nan) | {"better": a.row.name, "than": b.row.name, "metric": metric}
    if metric not in a.metrics or metric not in b.metrics:
        return line | {"verdict": "not measured", "sentence": f"{a.row.name} against {b.row.name} in {metric}"}
    sides = [f"{side.row.name} ({format_metric(side, metric)})" for side in (a, b)]
    resamples = [side.resampled(metric) for side in (a, b)]
    if not all(resamples) or not _same_test_set(a.done + b.done):
        sentence = f"{sides[0]} against {sides[1]} in {metric}: no scores of the same test images to compare"
        return line | {"verdict": "not decided", "sentence": sentence}
    found = compare(*resamples, a.values(metric), b.values(metric))
    verdict = "holds" if found["low"] > 0 else "does not hold" if found["high"] < 0 else "not decided"
    relation = {"holds": "is above", "does not hold": "is below"}.get(verdict, "cannot be told from")
    counts = {len(a.done), len(b.done)}
    seeds = "one seed each" if counts == {1} else " and ".join(f"{len(side.done)} seeds" for side in (a, b))
    sentence = (
        f"{sides[0]} {relation} {sides[1]} in {metric}: the difference is {100 * found['difference']:+.1f} points, 95 % "
        f"interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f} over test images ({seeds})"
    )
    return line | found | {"verdict": verdict, "sentence": sentence}


def _same_test_set(runs: list[RunResult]) -> bool:
    """Whether all runs were scored on the same images, targets and ignored entries."""
    if len({run.resamples.shape for run in runs}) > 1:
        return False
    for name in ("targets.npy", "ignore.npy"):
        paths = [run.folder / "experiment" / name for run in runs]
        first, *others = (np.load(path) if path.exists() else None for path in paths)
        if not all(np.array_equal(first, other) for other in others):
            return False
    return True
