"""Measured rows against what was declared: means over seeds, verdicts, claims, and the table as CSV, Markdown and HTML.

No value is shown with more digits than its evidence has: one decimal of a percent where its standard error is below
half a point, none where it is larger. With several seeds a value is their mean, followed by their standard deviation.
The standard error is that of `evidence.standard_error`: of the test images and, with several seeds, of the seeds. CSV
and JSON keep full precision.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .evidence import COLUMNS, compare, spread, standard_error
from .tables import Row, Run, Table

COST_COLUMNS = {
    "parameters": ("parameters, M", 1e-6, 1),
    "backbone_parameters": ("backbone, M", 1e-6, 1),
    "head_parameters": ("head, M", 1e-6, 1),
    "gflops": ("GFLOPs an image", 1, 2),
    "gflops_literal": ("GFLOPs, literal formulas", 1, 2),
    "inference_images_per_second": ("inference, images/s", 1, 1),
    "training_images_per_second": ("training, images/s", 1, 1),
    "inference_memory": ("inference memory, MB", 1e-6, 0),
    "training_memory": ("training memory, MB", 1e-6, 0),
}
"""Columns of a cost table: header with unit, factor to that unit, decimals."""

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


# --- Values and verdicts -----------------------------------------------------------------------------------------


def decimals(result: RowResult, metric: str) -> int:
    """Decimals that a percentage of this row is shown with."""
    return int(result.errors.get(metric, 0.0) < DECIMALS_BELOW)


def format_metric(result: RowResult, metric: str) -> str:
    """A row's metric in percent, `93.7`, or with several seeds `93.7 ± 0.4`; a dash where there is none."""
    places = decimals(result, metric)
    text = _percent(result.metrics.get(metric), places)
    if text != "-" and metric in result.spreads:
        text += f" ± {max(100 * result.spreads[metric], 10**-places):.{places}f}"
    return text


def _percent(value: float | None, places: int = 1) -> str:
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
            words.append(f"{metric} {side} published by {_percent(abs(gap), decimals(result, metric))}")
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


# --- Formats -----------------------------------------------------------------------------------------------------


def format_csv(results: list[RowResult]) -> str:
    """The table as CSV at full precision; fractions. For every metric: ours, deviation over seeds, published, gap."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    cost = results[0].row.kind == "cost"
    header = ["row", "group", "state", "verdict", "seconds", "seeds"]
    for metric in COST_COLUMNS if cost else COLUMNS:
        header += [metric] if cost else [metric, f"{metric}_std", f"{metric}_published", f"{metric}_gap"]
    writer.writerow(header)
    for result in results:
        seeds = " ".join(str(run.run.seed) for run in result.done)
        seconds = f"{result.seconds:.1f}" if result.seconds else ""
        line = [result.row.name, result.row.group, result.state, judge_row(result), seconds, seeds]
        for metric in COST_COLUMNS if cost else COLUMNS:
            ours, published = result.metrics.get(metric), result.row.published.get(metric)
            gap = ours - published if ours is not None and published is not None else None
            values = [ours] if cost else [ours, result.spreads.get(metric), published, gap]
            line += ["" if value is None else repr(float(value)) for value in values]
        writer.writerow(line)
    return text.getvalue()


def verdict_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of published value, ours, gap and verdict, in percent."""
    lines = []
    for result in results:
        ours, published = result.metrics.get("mAP"), result.row.published.get("mAP")
        gap = "-"
        if ours is not None and published is not None:
            gap = f"{100 * (ours - published):+.{decimals(result, 'mAP')}f}"
        on_file = "-" if result.row.stand_in else "not on file" if published is None else _percent(published)
        lines.append([result.row.name, on_file, format_metric(result, "mAP"), gap, judge_row(result)])
    return ["method", "mAP published", "mAP ours", "gap", "verdict"], _grouped(results, lines)


def metric_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of all metrics as papers print them, ours first, then the context rows with their sources."""
    header = ["method", *(name.replace("top3_", "top-3 ") for name in COLUMNS)]
    lines = [[result.row.name, *(format_metric(result, metric) for metric in COLUMNS)] for result in results]
    lines = _grouped(results, lines)
    for entry in table.context:
        values = entry.get("values", {})
        lines.append([_context_name(entry), *(_percent(values.get(metric)) for metric in COLUMNS)])
    return header, lines


def label_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of each label's AP, a line a label, a column a row; then context rows that give them."""
    context = [entry for entry in table.context if entry.get("labels")]
    rows = [result for result in results if result.labels]
    names = list(dict.fromkeys([name for result in rows for name in result.labels]))
    names = names or list(dict.fromkeys(name for entry in context for name in entry["labels"]))
    header = ["label", *(result.row.name for result in rows), *(_context_name(entry) for entry in context)]
    lines = [
        [name, *(_percent(result.labels.get(name)) for result in rows),
         *(_percent(entry["labels"].get(name)) for entry in context)]
        for name in names
    ]  # fmt: skip
    return header, lines


def cost_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a cost table."""
    lines = []
    for result in results:
        cells = [result.row.name]
        for name, (_, factor, places) in COST_COLUMNS.items():
            value = result.metrics.get(name)
            cells.append("-" if value is None else f"{value * factor:,.{places}f}")
        about = result.done[0].about if result.done else {}
        batch = str(about.get("parameters", {}).get("batch_size", "-"))
        lines.append([*cells, batch, about.get("device", "-"), judge_row(result)])
    header = ["method", *(header for header, _, _ in COST_COLUMNS.values()), "images a step", "device", "state"]
    return header, _grouped(results, lines)


def _context_name(entry: dict[str, Any]) -> str:
    name = entry["method"] + (f" ({entry['backbone']})" if entry.get("backbone") else "")
    return f"{name}; source: {entry['source']}"


def _grouped(results: list[RowResult], lines: list[list[str]]) -> list[list[str]]:
    """The lines with a line of one cell, the heading, before each group."""
    grouped, group = [], ""
    for result, line in zip(results, lines, strict=True):
        if result.row.group != group:
            group = result.row.group
            grouped.append([group])
        grouped.append(line)
    return grouped


def format_choices(results: list[RowResult]) -> list[str]:
    """Sentences that say which parameters of which rows are this project's choice and not published."""
    by_choice: dict[str, list[str]] = {}
    for result in results:
        row = result.row
        choice = ", ".join(f"{name} = {row.parameters[name]}" for name in row.ours)
        if choice:
            by_choice.setdefault(choice, []).append(row.name)
    return [f"ours, not published, in {', '.join(names)}: {choice}" for choice, names in by_choice.items()]


def _blocks(table: Table, results: list[RowResult]) -> Iterator[tuple[str, list[str], list[list[str]], int]]:
    """The parts of a table: caption, header, lines, and how many last columns are words."""
    if table.kind == "cost":
        yield f"{table.title}", *cost_cells(table, results), 2
        return
    yield f"{table.title} (percent)", *verdict_cells(table, results), 1
    yield "All metrics (percent)", *metric_cells(table, results), 0
    if any(entry.get("labels") for entry in table.context):
        yield "AP of each label (percent)", *label_cells(table, results), 0


def format_markdown(table: Table, results: list[RowResult], claims: list[ClaimResult] | None = None) -> str:
    """The table as a Markdown document: title, about, tables, claims, our choices."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    parts = [f"# {table.title}", ""] + ([table.about.strip(), ""] if table.about else [])
    for _, header, lines, words in _blocks(table, results):
        rule = ["---"] + ["---:"] * (len(header) - 1 - words) + ["---"] * words
        full = [[f"**{cells[0]}**"] + [""] * (len(header) - 1) if len(cells) == 1 else cells for cells in lines]
        parts += [line(header), line(rule), *map(line, full), ""]
    claims = judge_claims(table, results) if claims is None else claims
    parts += [f"- {claim.verdict}: {claim.sentence}" for claim in claims]
    parts += [f"- {sentence}" for sentence in format_choices(results)]
    return "\n".join(parts).rstrip() + "\n"


def format_html(table: Table, results: list[RowResult]) -> str:
    """The table as HTML `<table>` elements: verdicts, all metrics, and labels where they are published; or costs."""
    return "".join(html_table(header, lines, caption) for caption, header, lines, _ in _blocks(table, results))


def html_table(header: list[str], lines: list[list], caption: str = "") -> str:
    """A plain, accessible HTML table: the first cell of each line is its header; a line of one cell heads a group."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = []
    for cells in lines:
        first, *rest = (html.escape(str(cell)) for cell in cells)
        scope = "row" if rest or len(header) == 1 else "rowgroup"
        # No colspan: readers, and our own tidying, then still know each cell's column.
        filled = rest + [""] * (len(header) - 1 - len(rest))
        body.append(f'<tr><th scope="{scope}">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in filled) + "</tr>")
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>\n"
