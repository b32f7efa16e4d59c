"""Tables: what a TOML file declares, and how measured rows become CSV, Markdown and HTML with verdicts.

A table file says

    title = "..."                     # what the table shows
    about = "..."                     # a few sentences for the report
    baseline = "name of a row"        # optional: the row that figures compare with
    scales = ["mini"]                 # optional: `paper` and `mini` where it is left out

    [parameters]                      # settings of every row: names of TrainSettings
    data = "mini"

    [scale.mini.parameters]           # optional: what --scale mini changes

    [[rows]]
    name = "SGRE"
    about = "..."                     # optional
    parameters = { lamda = 0.4 }      # on top of the table's
    published = { mAP = 0.95 }        # fractions, typed in from the paper; with source and tolerance
    source = "..."
    tolerance = 0.005                 # a gap within it counts as reproduced
    at_least = { mAP = 0.90 }         # ours: a floor that the row must reach

    [[claims]]                        # ours: what the table is to show
    better = "SGRE"
    than = "global average pooling"
    metric = "mAP"

    [[context]]                       # published values of other methods, shown below ours
    method = "..."
    values = { mAP = 0.85 }
    source = "..."
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UserError
from .settings import make_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")
COLUMNS = (*METRICS, *(f"top3_{name}" for name in METRICS[1:]))
"""The columns of the paper's tables, in order."""

SCALES = ("paper", "mini")
DEFAULT_TOLERANCE = 0.005
"""Fraction: half a point of mAP, within what reruns by others differ."""

RUN_SETTINGS = ("exp_dir", "resume", "device", "processes", "num_workers", "data_root")
"""Settings that a row may not fix: they belong to the machine that runs it."""


@dataclass(frozen=True)
class Row:
    """One declared run. parameters: settings, complete with the table's. published, at_least: metric -> fraction."""

    name: str
    parameters: dict[str, Any]
    about: str = ""
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""
    tolerance: float = DEFAULT_TOLERANCE
    at_least: dict[str, float] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as a folder name."""
        return slugify(self.name)


@dataclass(frozen=True)
class Table:
    """A declared table. name: the file's stem, with `-mini` where a paper table is run at mini scale."""

    name: str
    path: Path
    title: str
    about: str
    scale: str
    rows: list[Row]
    claims: list[dict[str, str]]
    context: list[dict[str, Any]]
    baseline: str | None = None

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


def slugify(name: str) -> str:
    """A name as a folder name: letters, digits and dashes, lower case."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"


def read_table(path: str | Path, scale: str = "paper") -> Table:
    """Read and check a table file. Raises UserError naming the file and the entry that cannot be."""
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the table file {path} is missing") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    _refuse_unknown(
        content, ("title", "about", "baseline", "scales", "parameters", "scale", "rows", "claims", "context"), str(path)
    )
    scales = content.get("scales", list(SCALES))
    if not isinstance(scales, list) or not scales or not set(scales) <= set(SCALES):
        raise UserError(f"{path}: scales must be some of {', '.join(SCALES)}")
    if scale not in scales:
        if len(scales) > 1:
            raise UserError(f"{path} has no scale {scale!r}, only {', '.join(scales)}")
        scale = scales[0]
    changed = content.get("scale", {}).get(scale, {}).get("parameters", {})
    common = {**content.get("parameters", {}), **changed}
    rows = [_read_row(path, number, entry, common, changed) for number, entry in enumerate(content.get("rows", []), 1)]
    if not rows:
        raise UserError(f"{path} declares no [[rows]]")
    names = [row.name for row in rows]
    for what, values in (("name", names), ("folder name", [row.slug for row in rows])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice:
            raise UserError(f"{path}: two rows have the {what} {twice!r}")
    claims = content.get("claims", [])
    for claim in claims:
        _refuse_unknown(claim, ("better", "than", "metric"), f"{path}: a claim")
        for key in ("better", "than"):
            if claim.get(key) not in names:
                raise UserError(f"{path}: a claim is about {claim.get(key)!r}, which is no row")
        if claim.setdefault("metric", "mAP") not in COLUMNS:
            raise UserError(f"{path}: a claim is about the metric {claim['metric']!r}")
    for entry in content.get("context", []):
        _refuse_unknown(entry, ("method", "backbone", "values", "source"), f"{path}: a context row")
        _check_values(entry.get("values", {}), f"{path}: context row {entry.get('method')!r}")
        if not entry.get("source"):
            raise UserError(f"{path}: context row {entry.get('method')!r} has no source")
    baseline = content.get("baseline")
    if baseline is not None and baseline not in names:
        raise UserError(f"{path}: baseline {baseline!r} is no row")
    suffix = f"-{scale}" if scale != scales[0] else ""
    return Table(
        path.stem + suffix, path, content.get("title", path.stem), content.get("about", ""), scale, rows, claims,
        content.get("context", []), baseline,
    )  # fmt: skip


def _read_row(path: Path, number: int, entry: Any, common: dict, changed: dict) -> Row:
    where = f"{path}: row {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise UserError(f"{where} has no name")
    where = f"{path}: row {entry['name']!r}"
    _refuse_unknown(entry, [item.name for item in fields(Row)], where)
    # At mini scale what the scale changes comes last, so that a row's own image size or backbone does not undo it.
    parameters = {**common, **entry.get("parameters", {}), **changed}
    for name in RUN_SETTINGS:
        if name in parameters:
            raise UserError(f"{where}: {name} belongs to the machine, not to a table")
    try:
        settings = make_settings(**parameters)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for key in ("published", "at_least"):
        _check_values(entry.get(key, {}), f"{where}: {key}")
    if entry.get("published") and not entry.get("source"):
        raise UserError(f"{where}: a published value needs its source")
    values = {name: getattr(settings, name) for name in parameters}
    return Row(**{**entry, "parameters": values})


def _refuse_unknown(entry: dict, known, where: str) -> None:
    for key in entry:
        if key not in known:
            raise UserError(f"{where}: unknown entry {key!r} (known: {', '.join(known)})")


def _check_values(values: Any, where: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{where} is not a list of metrics")
    for metric, value in values.items():
        if metric not in COLUMNS:
            raise UserError(f"{where}: unknown metric {metric!r}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(f"{where}: {metric} = {value!r} is not a fraction in 0..1")


@dataclass(frozen=True)
class RowResult:
    """What became of a row. state: done, failed, stale, interrupted or not run. metrics: fractions, of a done row."""

    row: Row
    state: str
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    folder: Path | None = None


def judge_row(result: RowResult) -> str:
    """The verdict on a row, in words."""
    row = result.row
    if result.state != "done":
        return f"failed: {result.error}" if result.state == "failed" else result.state
    words = []
    for metric, value in row.published.items():
        gap = result.metrics.get(metric, math.nan) - value
        if math.isnan(gap):
            words.append(f"no {metric} to compare")
        elif abs(gap) <= row.tolerance + 1e-9:  # 0.895 is within 0.005 of 0.9, whatever binary says
            words.append(f"{metric} reproduced")
        else:
            words.append(f"{metric} {'above' if gap > 0 else 'below'} published by {100 * abs(gap):.1f}")
    for metric, floor in row.at_least.items():
        reached = result.metrics.get(metric, -1) >= floor
        words.append(f"{metric} {'reaches' if reached else 'misses'} {100 * floor:.1f}")
    return "; ".join(words) or "published value not on file"


def judge_claims(table: Table, results: list[RowResult]) -> list[tuple[str, bool | None]]:
    """Each claim as a sentence, and whether it holds (None: a row is not done)."""
    by_name = {result.row.name: result for result in results}
    verdicts = []
    for claim in table.claims:
        metric = claim["metric"]
        a, b = (by_name[claim[key]].metrics.get(metric) for key in ("better", "than"))
        if a is None or b is None:
            verdicts.append((f"{claim['better']} against {claim['than']}: not measured yet", None))
        else:
            relation = "is above" if a > b else "is not above"
            sentence = f"{claim['better']} ({100 * a:.1f}) {relation} {claim['than']} ({100 * b:.1f}) in {metric}"
            verdicts.append((sentence, a > b))
    return verdicts


def format_csv(results: list[RowResult]) -> str:
    """The table as CSV at full precision: for every metric ours, published and their gap; fractions."""
    text = io.StringIO()
    header = ["row", "state", "verdict", "seconds"]
    for metric in COLUMNS:
        header += [metric, f"{metric}_published", f"{metric}_gap"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for result in results:
        line = [result.row.name, result.state, judge_row(result), f"{result.seconds:.1f}" if result.seconds else ""]
        for metric in COLUMNS:
            ours, published = result.metrics.get(metric), result.row.published.get(metric)
            gap = ours - published if ours is not None and published is not None else None
            line += ["" if value is None else repr(float(value)) for value in (ours, published, gap)]
        writer.writerow(line)
    return text.getvalue()


def verdict_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of published value, ours, gap and verdict, in percent with one decimal."""
    lines = []
    for result in results:
        ours, published = result.metrics.get("mAP"), result.row.published.get("mAP")
        gap = f"{100 * (ours - published):+.1f}" if ours is not None and published is not None else "-"
        on_file = _percent(published) if published is not None else "not on file"
        lines.append([result.row.name, on_file, _percent(ours), gap, judge_row(result)])
    return ["method", "mAP published", "mAP ours", "gap", "verdict"], lines


def metric_cells(table: Table, results: list[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of all metrics as papers print them, ours first, then the context rows with their sources."""
    header = ["method", *(name.replace("top3_", "top-3 ") for name in COLUMNS)]
    lines = [[result.row.name, *(_percent(result.metrics.get(metric)) for metric in COLUMNS)] for result in results]
    for entry in table.context:
        name = entry["method"] + (f" ({entry['backbone']})" if entry.get("backbone") else "")
        values = entry.get("values", {})
        lines.append([f"{name}; source: {entry['source']}", *(_percent(values.get(metric)) for metric in COLUMNS)])
    return header, lines


def _percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def format_markdown(table: Table, results: list[RowResult]) -> str:
    """The table as a Markdown document: title, about, table, claims."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def block(header: list[str], lines: list[list[str]], words: int) -> list[str]:
        rule = ["---"] + ["---:"] * (len(header) - 1 - words) + ["---"] * words
        return [line(header), line(rule), *map(line, lines), ""]

    parts = [f"# {table.title}", ""] + ([table.about.strip(), ""] if table.about else [])
    parts += block(*verdict_cells(table, results), words=1) + block(*metric_cells(table, results), words=0)
    parts += [f"- {'holds' if ok else 'not measured' if ok is None else 'does not hold'}: {text}"
              for text, ok in judge_claims(table, results)]  # fmt: skip
    return "\n".join(parts).rstrip() + "\n"


def format_html(table: Table, results: list[RowResult]) -> str:
    """The table as two HTML `<table>` elements: verdicts, then all metrics."""
    verdicts = html_table(*verdict_cells(table, results), f"{table.title} (percent)")
    return verdicts + html_table(*metric_cells(table, results), "All metrics (percent)")


def html_table(header: list[str], lines: list[list], caption: str = "") -> str:
    """A plain, accessible HTML table: the first cell of each line is its header."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = []
    for cells in lines:
        first, *rest = (html.escape(str(cell)) for cell in cells)
        body.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>\n"
