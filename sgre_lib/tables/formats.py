"""A table as CSV, Markdown and HTML, with as many digits as the evidence bears."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from ..evaluation.intervals import COLUMNS
from ..reports.display import html_table
from .declaration import Table
from .judge import ClaimResult, RowResult, decimals, format_metric, judge_claims, judge_row, percent

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
        on_file = "-" if result.row.stand_in else "not on file" if published is None else percent(published)
        lines.append([result.row.name, on_file, format_metric(result, "mAP"), gap, judge_row(result)])
    return ["method", "mAP published", "mAP ours", "gap", "verdict"], _grouped(results, lines)


def metric_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of all metrics as papers print them, ours first, then the context rows with their sources."""
    header = ["method", *(name.replace("top3_", "top-3 ") for name in COLUMNS)]
    lines = [[result.row.name, *(format_metric(result, metric) for metric in COLUMNS)] for result in results]
    lines = _grouped(results, lines)
    for entry in table.context:
        values = entry.get("values", {})
        lines.append([_context_name(entry), *(percent(values.get(metric)) for metric in COLUMNS)])
    return header, lines


def label_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of each label's AP, a line a label, a column a row; then context rows that give them."""
    context = [entry for entry in table.context if entry.get("labels")]
    rows = [result for result in results if result.labels]
    names = list(dict.fromkeys([name for result in rows for name in result.labels]))
    names = names or list(dict.fromkeys(name for entry in context for name in entry["labels"]))
    header = ["label", *(result.row.name for result in rows), *(_context_name(entry) for entry in context)]
    lines = [
        [name, *(percent(result.labels.get(name)) for result in rows),
         *(percent(entry["labels"].get(name)) for entry in context)]
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
