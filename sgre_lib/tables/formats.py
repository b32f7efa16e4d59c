"""A table as papers print it, and its files: CSV and JSON at full precision, Markdown and HTML with as many digits as
the evidence bears."""

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..base.files import write_json, write_text
from ..evaluation.intervals import COLUMNS
from ..reports.display import html_table
from .judge import decimals, format_percent, judge_row
from .results import TableResult
from .run_folder import COST_COLUMNS, METRICS

Cells = tuple[list[str], list[list[str]]]
"""A table's header and lines. The first cell of a line is its name; a line of one cell heads a group."""

Links = Mapping[str, str]
"""For names of rows, where their numbers lead. A row that is not there has no link."""

NOTHING: Cells = ([], [])


def make_cells(lines: list[dict[str, Any]], groups: Iterable[str] = ()) -> Cells:
    """A table of lines that are all said by column. groups: of each line; a line of one cell goes before each group."""
    grouped, group = [], ""
    for line, name in zip_longest(lines, groups, fillvalue=""):
        if name != group:
            group = name
            grouped.append([group])
        grouped.append(list(line.values()))
    return (list(lines[0]), grouped) if lines else NOTHING


def make_row_cells(found: TableResult, lines: list[dict[str, Any]]) -> Cells:
    """A table with a line for each row, in groups."""
    return make_cells(lines, [row.row.group for row in found.rows])


def result_cells(found: TableResult, links: Links | None = None) -> Cells:
    """Published value, ours, gap, by how much the reference row is better, and verdict; in percent.

    What says nothing in this table is left out: published values, gaps and verdicts where nothing is published, the
    difference where nothing can be compared.
    """
    if found.table.kind == "cost":
        return NOTHING
    texts, published, compared = format_values(found, links), has_published(found), found.differences()
    reference, lines = found.reference.row.name, []
    differences = {line.than: format_difference(line) for line in compared.itertuples()} | {reference: "-"}
    for row, value in zip(found.rows, found.values[found.values.metric == "mAP"].itertuples(), strict=True):
        said = "not on file" if pd.isna(value.published) else format_percent(value.published)
        line = {"method": value.row} | ({"mAP published": said} if published else {})
        line["mAP ours" if published else "mAP"] = texts[value.row][0]
        if published:
            places = decimals(value.standard_error)
            line["gap"] = "-" if pd.isna(value.gap) else f"{100 * value.gap:+.{places}f}"
        if compared.difference.notna().any():
            line[f"{reference} is better by (95 % interval)"] = differences.get(value.row, "same runs")
        lines.append(line | ({"verdict": judge_row(row)} if published else {}))
    return make_row_cells(found, lines)


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
    texts = [[name, *values] for name, values in format_values(found, links).items()]
    for entry in found.table.context:
        texts.append([_context_name(entry), *(format_percent(entry.get("values", {}).get(name)) for name in COLUMNS)])
    groups = [row.row.group for row in found.rows]
    others = ["published by others" if any(groups) else ""] * len(found.table.context)
    return make_cells([dict(zip(header, line, strict=True)) for line in texts], groups + others)


def label_cells(found: TableResult, links: Links | None = None, most: int = 0) -> Cells:
    """AP of each label, a line a label, a column a row; then context rows that give them.

    Where no context row does, and there are more than `most` rows, it is left out: wider it is unreadable.
    """
    frame, others = found.labels, [entry for entry in found.table.context if entry.get("labels")]
    if not others and len(frame.columns) > most:
        return NOTHING
    for entry in others:
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
    for row, (name, texts) in zip(found.rows, format_values(found, links).items(), strict=True):
        about = row.done[0].about if row.done else {}
        measured = dict(zip((header for header, _, _ in COST_COLUMNS.values()), texts, strict=True))
        batch = str(about.get("parameters", {}).get("batch_size", "-"))
        said = {"images a step": batch, "device": about.get("device", "-"), "state": judge_row(row)}
        lines.append({"method": name} | measured | said)
    return make_row_cells(found, lines)


def _context_name(entry: dict[str, Any]) -> str:
    name = entry["method"] + (f" ({entry['backbone']})" if entry.get("backbone") else "")
    return f"{name}; source: {entry['source']}"


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
    """Write table.csv, table.md, table.html and table.json."""
    write_text(found.folder / "table.csv", format_csv(found))
    write_text(found.folder / "table.md", format_markdown(found))
    write_text(found.folder / "table.html", format_html(found))
    write_json(found.folder / "table.json", describe_table(found))


def format_csv(found: TableResult) -> str:
    """One line a row at full precision; fractions. For every metric: ours, deviation over seeds, published, gap."""
    lines = [
        {
            "row": row.row.name,
            "group": row.row.group,
            "state": row.state,
            "verdict": judge_row(row),
            "seconds": f"{row.seconds:.1f}" if row.seconds else "",
            "seeds": " ".join(str(run.run.seed) for run in row.done),
        }
        for row in found.rows
    ]
    frame, values = pd.DataFrame(lines).set_index("row"), found.values.set_index("row")
    kinds = {"": "value", "_std": "deviation", "_published": "published", "_gap": "gap"}
    for metric in METRICS[found.table.kind]:
        for suffix, column in kinds.items() if found.table.kind != "cost" else [("", "value")]:
            frame[metric + suffix] = values.loc[values.metric == metric, column]
    return frame.to_csv(lineterminator="\n")


def _blocks(found: TableResult) -> dict[str, Cells]:
    """The parts of a table that have lines, by caption."""
    parts = {
        f"{found.table.title} (percent)": result_cells(found),
        "All metrics (percent)": metric_cells(found),
        "AP of each label (percent)": label_cells(found),
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
    """What is declared, and the pandas tables of `TableResult` line by line, as plain values."""
    table = found.table
    declared = {name: value for name, value in vars(table).items() if name not in ("name", "path", "rows", "claims")}
    rows = [
        {**vars(row.row), "slug": row.row.slug, "state": row.state, "verdict": judge_row(row)} for row in found.rows
    ]
    frames = {"values": found.values, "runs": found.runs, "claims": found.claims, "differences": found.differences()}
    return {
        "table": table.name,
        **declared,
        "source": table.path.name,
        "rows": rows,
        **{name: frame.to_dict("records") for name, frame in frames.items()},
        "labels": found.labels.to_dict(),
        "reference": found.reference.row.name,
        "choices": describe_choices(found),
    }
