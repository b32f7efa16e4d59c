"""A table as papers print it, and its files: CSV and JSON at full precision, Markdown and HTML with as many digits as
the evidence bears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..base.files import write_json, write_text
from ..evaluation.intervals import COLUMNS
from ..reports.display import html_table
from .judge import RowResult, decimals, format_percent, judge_row
from .results import TableResult
from .run_folder import COST_COLUMNS, METRICS, RunResult

Cells = tuple[list[str], list[list[str]]]
"""A table's header and lines. The first cell of a line is its name; a line of one cell heads a group."""

Links = Mapping[str, str]
"""For names of rows, where their numbers lead. A row that is not there has no link."""


NOTHING: Cells = ([], [])


def result_cells(found: TableResult, links: Links | None = None) -> Cells:
    """Published value, ours, gap, by how much the reference row is better, and verdict; in percent.

    What says nothing in this table is left out: published values, gaps and verdicts where nothing is published, the
    difference where nothing can be compared.
    """
    if found.table.kind == "cost":
        return NOTHING
    frame, compared = _lines_of(found, "mAP"), found.differences().set_index("than")
    texts = format_values(found, links)
    columns: dict[str, list] = {"method": list(frame.index)}
    published = has_published(found)
    if published:
        columns["mAP published"] = ["not on file" if pd.isna(one) else format_percent(one) for one in frame.published]
    columns["mAP ours" if published else "mAP"] = [texts[name][0] for name in frame.index]
    if published:
        gaps = zip(frame.gap, frame.standard_error, strict=True)
        columns["gap"] = ["-" if pd.isna(gap) else f"{100 * gap:+.{decimals(error)}f}" for gap, error in gaps]
    if compared.difference.notna().any():
        reference = found.reference.row.name
        gaps = {reference: "-"} | {line.Index: format_difference(line) for line in compared.itertuples()}
        columns[f"{reference} is better by (95 % interval)"] = [gaps.get(name, "same runs") for name in frame.index]
    if published:
        columns["verdict"] = [judge_row(row) for row in found.rows]
    return list(columns), group_lines(found, list(map(list, zip(*columns.values(), strict=True))))


def _lines_of(found: TableResult, metric: str) -> pd.DataFrame:
    return found.values[found.values.metric == metric].set_index("row")


def has_published(found: TableResult) -> bool:
    """Whether others' values belong beside ours: not at mini scale, unless a row says what was published for it."""
    return found.table.scale != "mini" or bool(found.values.published.notna().any())


def format_difference(line: Any) -> str:
    """A line of `TableResult.differences` in points, `+1.2 (+0.3 to +2.1)`."""
    numbers = [f"{100 * number:+.1f}" for number in (line.difference, line.low, line.high)]
    return "-" if pd.isna(line.difference) else "{} ({} to {})".format(*numbers)


def format_values(found: TableResult, links: Links | None = None) -> dict[str, list[str]]:
    """For each row the texts of its metrics, in order: percent, or of a cost table in the units of `COST_COLUMNS`."""
    texts = {}
    for name, part in found.values.groupby("row", sort=False):
        if found.table.kind == "cost":
            pairs = zip(part.value, COST_COLUMNS.values(), strict=True)
            said = ["-" if pd.isna(one) else f"{one * factor:,.{places}f}" for one, (_, factor, places) in pairs]
        else:
            said = list(map(format_percent, part.value, part.deviation, part.standard_error))
        texts[name] = [link_to((links or {}).get(name), text) for text in said]
    return texts


def link_to(address: str | None, text: str) -> str:
    """A text as a link, for a cell of an HTML table; without an address, or for a dash, the text."""
    return Markup('<a href="{}">{}</a>').format(address, text) if address and text != "-" else text


def metric_cells(found: TableResult, links: Links | None = None) -> Cells:
    """All metrics as papers print them, ours first, then the context rows with their sources."""
    if found.table.kind == "cost" or not (found.table.context or found.values.value.notna().any()):
        return NOTHING
    header = ["method", *(name.replace("top3_", "top-3 ") for name in COLUMNS)]
    lines = group_lines(found, [[name, *texts] for name, texts in format_values(found, links).items()])
    lines += [["published by others"]] if found.table.context and any(row.row.group for row in found.rows) else []
    for entry in found.table.context:
        lines.append([_context_name(entry), *(format_percent(entry.get("values", {}).get(name)) for name in COLUMNS)])
    return header, lines


def label_cells(found: TableResult, links: Links | None = None) -> Cells:
    """AP of each label, a line a label, a column a row; then context rows that give them."""
    frame = found.labels
    for entry in found.table.context:
        if entry.get("labels"):
            one = pd.Series(entry["labels"], name=_context_name(entry), dtype=float)
            frame = pd.concat([frame, one.reindex(frame.index) if len(frame) else one], axis=1)
    addresses = [(links or {}).get(name) for name in frame.columns]
    lines = [
        [name, *map(link_to, addresses, map(format_percent, values))] for name, *values in frame.itertuples(name=None)
    ]
    return ["label", *frame.columns], lines


def cost_cells(found: TableResult, links: Links | None = None) -> Cells:
    """Parameters, operations, speed and memory, and what they were measured with."""
    if found.table.kind != "cost":
        return NOTHING
    lines = []
    for result, (name, texts) in zip(found.rows, format_values(found, links).items(), strict=True):
        about = result.done[0].about if result.done else {}
        batch = str(about.get("parameters", {}).get("batch_size", "-"))
        lines.append([name, *texts, batch, about.get("device", "-"), judge_row(result)])
    header = ["method", *(header for header, _, _ in COST_COLUMNS.values()), "images a step", "device", "state"]
    return header, group_lines(found, lines)


def publishes_labels(found: TableResult) -> bool:
    """Whether others publish the AP of single labels."""
    return any(entry.get("labels") for entry in found.table.context)


def _context_name(entry: dict[str, Any]) -> str:
    name = entry["method"] + (f" ({entry['backbone']})" if entry.get("backbone") else "")
    return f"{name}; source: {entry['source']}"


def group_lines(found: TableResult, lines: list[list[str]]) -> list[list[str]]:
    """The lines with a line of one cell, the heading, before each group."""
    grouped, group = [], ""
    for result, line in zip(found.rows, lines, strict=True):
        if result.row.group != group:
            group = result.row.group
            grouped.append([group])
        grouped.append(line)
    return grouped


def describe_choices(found: TableResult) -> list[str]:
    """Sentences that say which parameters of which rows are this project's choice and not published."""
    by_choice: dict[str, list[str]] = {}
    for result in found.rows:
        row = result.row
        choice = ", ".join(f"{name} = {row.parameters[name]}" for name in row.ours)
        if choice:
            by_choice.setdefault(choice, []).append(row.name)
    return [f"ours, not published, in {', '.join(names)}: {choice}" for choice, names in by_choice.items()]


def write_table(found: TableResult) -> None:
    """Write table.csv, table.md, table.html and table.json, which holds all that a report can say of the table."""
    write_text(found.folder / "table.csv", format_csv(found))
    write_text(found.folder / "table.md", format_markdown(found))
    write_text(found.folder / "table.html", format_html(found))
    write_json(found.folder / "table.json", describe_table(found))


def format_csv(found: TableResult) -> str:
    """One line a row at full precision; fractions. For every metric: ours, deviation over seeds, published, gap."""
    rows, cost = found.rows, found.table.kind == "cost"
    columns: dict[str, Any] = {
        "row": [row.row.name for row in rows],
        "group": [row.row.group for row in rows],
        "state": [row.state for row in rows],
        "verdict": [judge_row(row) for row in rows],
        "seconds": [f"{row.seconds:.1f}" if row.seconds else "" for row in rows],
        "seeds": [" ".join(str(run.run.seed) for run in row.done) for row in rows],
    }
    for metric in METRICS[found.table.kind]:
        frame = _lines_of(found, metric)
        columns[metric] = frame.value.to_numpy()
        if not cost:
            columns[f"{metric}_std"] = frame.deviation.to_numpy()
            columns[f"{metric}_published"], columns[f"{metric}_gap"] = frame.published.to_numpy(), frame.gap.to_numpy()
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def _blocks(found: TableResult) -> dict[str, Cells]:
    """The parts of a table that have lines, by caption."""
    parts = {
        f"{found.table.title} (percent)": result_cells(found),
        "All metrics (percent)": metric_cells(found),
        "AP of each label (percent)": label_cells(found) if publishes_labels(found) else NOTHING,
        "Cost": cost_cells(found),
    }
    return {caption: cells for caption, cells in parts.items() if cells[1]}


def format_markdown(found: TableResult) -> str:
    """The table as a Markdown document: title, about, tables, claims, our choices."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    table = found.table
    parts = [f"# {table.title}", ""] + ([table.about, ""] if table.about else [])
    for header, lines in _blocks(found).values():
        words = [name in ("method", "label", "device", "state", "verdict") for name in header]
        rule = ["---" if left else "---:" for left in words]
        full = [[f"**{cells[0]}**"] + [""] * (len(header) - 1) if len(cells) == 1 else cells for cells in lines]
        parts += [line(header), line(rule), *map(line, full), ""]
    parts += [f"- {claim.verdict}: {claim.sentence}" for claim in found.claims.itertuples()]
    parts += [f"- {sentence}" for sentence in describe_choices(found)]
    return "\n".join(parts).rstrip() + "\n"


def format_html(found: TableResult) -> str:
    """The table as HTML `<table>` elements: verdicts, all metrics, and labels where they are published; or costs."""
    return "".join(html_table(header, lines, caption) for caption, (header, lines) in _blocks(found).items())


def describe_table(found: TableResult) -> dict[str, Any]:
    """A table and its results as plain values; folders and files are relative to the folder of results."""
    table = found.table
    declared = {name: value for name, value in vars(table).items() if name not in ("name", "path", "rows", "claims")}
    return {
        "table": table.name,
        **declared,
        "source": table.path.name,
        "groups": list(dict.fromkeys(row.row.group for row in found.rows)),
        "rows": [_describe_row(row, found) for row in found.rows],
        "claims": [_describe_pair(line) for line in found.claims.to_dict("records")],
        "reference": found.reference.row.name,
        "differences": [_describe_pair(line) for line in found.differences().to_dict("records")],
        "choices": describe_choices(found),
        "report": f"{table.name}/report.html",
    }


def _describe_pair(line: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: line.pop(name) for name in ("difference", "low", "high", "probability")}
    return line | {"evidence": {} if pd.isna(numbers["difference"]) else numbers}


def _describe_row(result: RowResult, found: TableResult) -> dict[str, Any]:
    return {
        "row": result.row.name, "slug": result.row.slug, **vars(result.row), "state": result.state,
        "verdict": judge_row(result), "error": result.error, "metrics": result.metrics, "std": result.spreads,
        "standard_error": result.errors, "labels": result.labels, "seconds": result.seconds,
        "runs": [_describe_run(run, found) for run in result.runs],
    }  # fmt: skip


def _describe_run(run: RunResult, found: TableResult) -> dict[str, Any]:
    named = ("started", "ended", "code_version", "clean", "versions", "device", "data_fingerprint")
    return {
        "run": run.folder.name, "key": run.run.key, "seed": run.run.seed, "state": run.state, "metrics": run.metrics,
        "seconds": run.seconds, "error": run.error, "folder": run.folder.relative_to(found.root).as_posix(),
        "files": [path.relative_to(found.root).as_posix() for path in (*run.notebooks, *run.files)],
        **{name: run.about.get(name) for name in named},
    }  # fmt: skip
