"""What the pages of the report site show: tables whose numbers lead to their runs, figures, and what is said of a table.

An address is relative to the page that it stands on: a table's page is `tables/<name>.html`, a run's
`runs/<run>/index.html`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from .. import figures
from ..base.errors import UserError
from ..base.settings import TrainSettings
from ..evaluation.intervals import COLUMNS
from ..figures import CostPoint
from ..reports.tidy import DASHES, NUMBER
from ..training.history import read_history
from .declaration import Table
from .formats import COST_COLUMNS, cost_cells, label_cells, metric_cells, verdict_cells
from .judge import ClaimResult, RowResult, RunResult, format_metric
from .plan import all_tables, expected_time, format_hours
from .run import read_json

CLAIM_VERDICTS = ("holds", "does not hold", "not decided", "not measured")

COSTLY = ("model", "arch", "image_size", "branches", "output_stride", "num_layers", "rm_cls")
"""Settings that decide how many operations a forward pass takes, besides the number of labels."""

MOST_LINES = 8
"""Curves, or models label by label, that one figure can hold and still be read."""

FIGURES = re.compile(r"[-+]?\d[\d.,:e-]*( (±|to|min|h|s|%)( ?[-+]?[\d.,]+)?)?$")
"""A cell of figures: `93.7 ± 0.4`, `+1.0 to +2.0`, `12 min`, `95 %`, a date; not words that begin with a number."""

LOCALISATION = ("pointing", "pointing_chance", "pointing_ceiling", "share", "share_chance", "share_ceiling")


class Cell(NamedTuple):
    """A cell of a table: a text, or links (address, text) in its place."""

    text: str = ""
    links: tuple[tuple[str, str], ...] = ()


class Group(NamedTuple):
    """Lines of a table under a heading of their own (empty: none), with an id to link to (empty: none)."""

    heading: str
    lines: list[list[Cell]]
    anchor: str = ""


@dataclass(frozen=True)
class Block:
    """A table of a page. The first cell of each line is its header; columns of numbers are set to the right."""

    caption: str
    header: list[str]
    groups: list[Group]

    @property
    def numbers(self) -> set[int]:
        """The columns that hold numbers, and dashes or words for none."""
        lines = [line for group in self.groups for line in group.lines]
        columns = [[_shown(line[column]) for line in lines] for column in range(1, len(self.header))]
        none = ("", "not on file", *DASHES)
        return {
            number
            for number, texts in enumerate(columns, 1)
            if all(text in none or FIGURES.match(text) for text in texts) and not set(texts) <= {""}
        }


def _shown(cell: Cell) -> str:
    return ", ".join(text for _, text in cell.links) or cell.text


class Drawing(NamedTuple):
    """A figure of a page: the stem of its file, its heading, its caption, and the matplotlib figure."""

    stem: str
    heading: str
    caption: str
    figure: Any


def run_address(run: RunResult, page: str = "index.html") -> str:
    """The address of a run's page, or of another file beside it, from a table's page."""
    return f"../runs/{quote(run.folder.name)}/{quote(page)}"


def row_address(result: RowResult) -> str:
    """Where a row's numbers lead: to its run or, with several seeds, to the list of its runs. Empty before any run."""
    begun = [run for run in result.runs if run.state != "not run"]
    if not begun:
        return ""
    return run_address(begun[0]) if len(result.runs) == 1 else f"#runs-{result.row.slug}"


def result_blocks(table: Table, results: list[RowResult]) -> Iterator[Block]:
    """The table itself: verdicts, all metrics, labels; or costs. Every number of ours is a link."""
    if table.kind == "cost":
        yield _linked_block("Cost of each row", results, *cost_cells(table, results))
        return
    yield _linked_block("Ours against published, in percent", results, *verdict_cells(table, results), ours=(2,))
    yield _linked_block("All metrics, in percent", results, *metric_cells(table, results))
    header, lines = label_cells(table, results)
    published = any(entry.get("labels") for entry in table.context)
    if lines and (published or len(header) <= MOST_LINES + 1):  # wider it is unreadable: each run's page has its own
        rows = [row_address(result) for result in results if result.labels]
        linked = [[Cell(name), *map(_number, cells, rows + [""] * len(cells))] for name, *cells in lines]
        yield Block("AP of each label, in percent", header, [Group("", linked)])


def _linked_block(
    caption: str, results: list[RowResult], header: list[str], lines: list[list[str]], ours: Sequence[int] | None = None
) -> Block:
    """Cells of `verdicts` as a block. Lines beyond those of the rows are what others published.

    ours: the columns that hold our numbers; default all.
    """
    groups, rows = [Group("", [])], iter(results)
    for cells in lines:
        if len(cells) == 1:
            groups.append(Group(cells[0], []))
            continue
        result = next(rows, None)
        if result is None and groups[-1].heading != "published by others":
            groups.append(Group("published by others", []))
        address = row_address(result) if result else ""
        columns = range(1, len(header)) if ours is None else ours
        linked = [_number(text, address if number in columns else "") for number, text in enumerate(cells)]
        groups[-1].lines.append([Cell(cells[0]), *linked[1:]])
    return Block(caption, header, [group for group in groups if group.lines])


def _number(text: str, address: str) -> Cell:
    """A cell that links where there are a number and an address."""
    linked = address and text not in DASHES and NUMBER.match(text)
    return Cell(text, ((address, text),) if linked else ())


def claim_block(table: Table, results: list[RowResult], claims: list[ClaimResult]) -> Block | None:
    """What became of each claim, with the interval of the difference; None for a table without claims."""
    if not claims:
        return None
    rows = {result.row.name: result for result in results}
    lines = []
    for claim in claims:
        found = claim.evidence
        numbers = [Cell("-")] * 3
        if found:
            interval = f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}"
            share = f"{100 * found['probability']:.0f} %"
            numbers = [Cell(text) for text in (f"{100 * found['difference']:+.1f}", interval, share)]
        sides = []
        for name in (claim.better, claim.than):
            value = f"{name}: {format_metric(rows[name], claim.metric)}"
            address = row_address(rows[name])
            sides.append(Cell(value, ((address, value),) if address else ()))
        said = f"{claim.better} is better than {claim.than} in {claim.metric}"
        lines.append([Cell(said), Cell(claim.verdict), *numbers, *sides])
    header = ["claim", "verdict", "difference, points", "95 % interval", "resamples above 0", "better", "than"]
    return Block("Claims, and the paired bootstrap over test images", header, [Group("", lines)])


def row_block(results: list[RowResult]) -> Block:
    """What each row is: words, the settings in which rows differ, and what it is expected to cost."""
    defaults = vars(TrainSettings())
    names = sorted({name for result in results for name in result.row.parameters})
    values = {
        name: [result.row.parameters.get(name, defaults.get(name)) for result in results]
        for name in names
        if len({str(result.row.parameters.get(name, defaults.get(name))) for result in results}) > 1
    }
    groups = [Group("", [])]
    for number, result in enumerate(results):
        row = result.row
        if row.group != groups[-1].heading:
            groups.append(Group(row.group, []))
        expected = format_hours(row.hours) if row.hours is not None else "-"
        took = format_hours(result.seconds / 3600) if result.seconds else "-"
        marked = [f"{values[name][number]}" + (" (ours)" if name in row.ours else "") for name in values]
        seeds = ", ".join(map(str, row.seeds))
        cells = [row.name, row.about or "-", *marked, seeds, expected, row.hardware or "-", took]
        groups[-1].lines.append([Cell(text) for text in cells])
    header = ["row", "what it is", *values, "seeds", "expected a run", "on", "measured"]
    caption = "The rows: where they differ, and the time a run is expected to take (our estimate)"
    return Block(caption, header, [group for group in groups if group.lines])


def shared_block(results: list[RowResult]) -> Block | None:
    """The settings that all rows have in common; None where there are none."""
    first, *others = (result.row.parameters for result in results)
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    ours = set.intersection(*(set(result.row.ours) for result in results))
    lines = [
        [Cell(name), Cell(str(value)), Cell("ours" if name in ours else "as published or by default")]
        for name, value in sorted(shared.items())
    ]
    if results[0].row.stand_in:
        lines = [line[:2] for line in lines]
    header = ["setting", "value", "whose choice"][: 2 if results[0].row.stand_in else 3]
    return Block("Settings of every row", header, [Group("", lines)]) if lines else None


def evidence_block(results: list[RowResult], notebooks: dict[str, list[str]]) -> Block:
    """The runs behind each row: where every number comes from. notebooks: run -> pages of its executed notebooks."""
    groups, cost = [], results[0].row.kind == "cost"
    for result in results:
        lines = []
        for run in result.runs:
            begun = run.state != "not run"
            value = format_metric(RowResult(result.row, [run]), "mAP")
            about = run.about
            where = tuple((run_address(run, page), Path(page).stem) for page in notebooks.get(run.folder.name, []))
            lines.append(
                [
                    Cell(f"seed {run.run.seed}", ((run_address(run), f"seed {run.run.seed}"),) if begun else ()),
                    Cell(run.state),
                    *([] if cost else [_number(value, run_address(run))]),
                    Cell((about.get("started") or "-")[:16].replace("T", " ")),
                    Cell(format_hours(run.seconds / 3600) if run.seconds else "-"),
                    Cell(about.get("code_version") or "-"),
                    Cell(about.get("device") or "-"),
                    Cell("-", where),
                ]
            )
        groups.append(Group(result.row.name, lines, f"runs-{result.row.slug}"))
    header = [
        "run",
        "state",
        *([] if cost else ["mAP"]),
        "started (UTC)",
        "took",
        "code",
        "device",
        "executed notebooks",
    ]
    return Block("The runs behind each row", header, groups)


def localisation_block(results: list[RowResult]) -> Block | None:
    """How well heatmaps find their labels' boxes, of the runs that `sgre localise` has measured; else None."""
    lines = []
    for result in results:
        for run in result.done:
            found = read_localisation(run)
            if found:
                means = found["mean_over_labels"]
                name = result.row.name + (f", seed {run.run.seed}" if len(result.runs) > 1 else "")
                values = [_number(f"{100 * means[field]:.1f}", run_address(run)) for field in LOCALISATION]
                lines.append([Cell(name), *values, Cell(found["map"])])
    header = ["row", "pointing", "its chance", "its ceiling", "share", "its chance", "its ceiling", "map"]
    caption = "Heatmaps measured by boxes, mean over labels in percent"
    return Block(caption, header, [Group("", lines)]) if lines else None


def read_localisation(run: RunResult) -> dict | None:
    """What `sgre localise` wrote of a run, or None."""
    found = read_json(run.folder / "experiment" / "localisation.json")
    return found if found and found.get("labels") else None


def draw_table(table: Table, results: list[RowResult], costs: list[dict]) -> Iterator[Drawing]:
    """The figures of an accuracy table, as far as something was measured. costs: contents of cost runs' run.json."""
    measured = [result for result in results if "mAP" in result.metrics]
    if not measured:
        return
    groups: dict[str, list[RowResult]] = {}
    for result in measured:
        groups.setdefault(result.row.group, []).append(result)
    if len(groups) > 1:  # a group of one has nothing to compare
        groups = {group: rows for group, rows in groups.items() if len(rows) > 1}
    for number, (group, rows) in enumerate(groups.items(), 1):
        of = f", {group}" if group else ""
        values = {row.row.name: row.metrics["mAP"] for row in rows}
        published = {row.row.name: row.row.published["mAP"] for row in rows if "mAP" in row.row.published}
        intervals = {row.row.name: row.interval("mAP") for row in rows if row.interval("mAP")}
        figure = figures.draw_comparison(values, published=published, intervals=intervals)
        yield Drawing(f"comparison-{number}", f"mAP of the rows{of}", "95 % intervals over test images.", figure)
    for number, (group, rows) in enumerate(groups.items(), 1):
        histories = dict(_histories(rows[:MOST_LINES]))
        if histories:
            of = f", {group}" if group else ""
            caption = "Test mAP of the moving average; the first seed of each row."
            figure = figures.draw_histories(histories)
            yield Drawing(f"training-{number}", f"Training{of}", caption, figure)
    yield from _draw_labels(table, measured)
    yield from _draw_cost(measured, costs)
    yield from _draw_localisation(measured)


def _histories(rows: list[RowResult]) -> Iterator[tuple[str, list[dict]]]:
    for row in rows:
        try:
            yield row.row.name, read_history(row.done[0].folder / "experiment")
        except UserError:  # no curve, and nothing else that hangs on it
            continue


def _draw_labels(table: Table, measured: list[RowResult]) -> Iterator[Drawing]:
    """The best row label by label against the baseline and what others published."""
    best = max(measured, key=lambda result: result.metrics["mAP"])
    names = list(best.labels)
    others = [result for result in measured if result is not best and list(result.labels) == names]
    baseline = [result for result in others if result.row.name == table.baseline]
    shown = [best, *(baseline or others[: 0 if table.baseline else 3])]
    if names:
        values = {result.row.name: np.array(list(result.labels.values())) for result in shown}
        published = {
            entry["method"]: np.array([entry["labels"].get(name, np.nan) for name in names])
            for entry in table.context
            if entry.get("labels")
        }
        figure = figures.draw_label_ap(names, values, published=published)
        hollow = " Hollow marks are published by others." if published else ""
        yield Drawing("labels", "Label by label", f"AP of each label, best first.{hollow}", figure)


def _draw_cost(measured: list[RowResult], costs: list[dict]) -> Iterator[Drawing]:
    points = [
        CostPoint(result.row.name, gflops, result.metrics["mAP"], *(result.interval("mAP") or ()))
        for result in measured
        if (gflops := find_gflops(result, costs)) is not None
    ]
    if len({point.cost for point in points}) > 1:
        caption = "Operations of one image's forward pass, from the cost runs with the same settings."
        yield Drawing("cost", "Results against cost", caption, figures.draw_cost(points))


def find_gflops(result: RowResult, costs: list[dict]) -> float | None:
    """GFLOPs an image of a row's model, by a cost run with the same model, size and number of labels; else None."""
    wanted = _costly(result.row.parameters) | {"label_count": len(result.labels)}
    for cost in costs:
        parameters = cost.get("parameters", {})
        if _costly(parameters) | {"label_count": parameters.get("label_count")} == wanted:
            return cost.get("metrics", {}).get("gflops")
    return None


def _costly(parameters: dict[str, Any]) -> dict[str, Any]:
    values = vars(TrainSettings()) | parameters
    return {name: values[name] for name in COSTLY}


def _draw_localisation(measured: list[RowResult]) -> Iterator[Drawing]:
    found = {result.row.name: read_localisation(result.done[0]) for result in measured}
    found = {name: one for name, one in found.items() if one}
    if not found:
        return
    first = next(iter(found.values()))["labels"]
    same = {
        name: one["labels"] for name, one in list(found.items())[:MOST_LINES] if one["labels"].keys() == first.keys()
    }
    pointing = {name: np.array([labels[label]["pointing"] for label in first]) for name, labels in same.items()}
    chance = np.array([row["pointing_chance"] for row in first.values()])
    figure = figures.draw_localisation(list(first), pointing, chance)
    caption = "How often a heatmap's peak is in a box of its label; the first seed of each row."
    yield Drawing("localisation", "Where the labels look, measured", caption, figure)


def describe_rows(results: list[RowResult]) -> str:
    """How many rows there are of each state: `2 of 4 done, 1 failed, 1 not run`."""
    counts = Counter(result.state for result in results)
    done = counts.pop("done", 0)
    return ", ".join([f"{done} of {len(results)} done", *(f"{number} {state}" for state, number in counts.items())])


def describe_claims(claims: list[ClaimResult]) -> str:
    """How many claims there are of each verdict: `2 hold, 1 not decided`."""
    counts = Counter(claim.verdict for claim in claims)
    said = {"holds": "hold", "does not hold": "do not hold"}
    parts = [
        f"{counts[verdict]} {verdict if counts[verdict] == 1 else said.get(verdict, verdict)}"
        for verdict in CLAIM_VERDICTS
        if counts[verdict]
    ]
    return ", ".join(parts) or "no claim is declared"


def describe_published(table: Table, results: list[RowResult]) -> str:
    """What of the published values is on file."""
    if table.kind == "cost":
        return "nothing to compare with: costs are measured here"
    if table.scale == "mini":
        return "nothing is published for mini"
    missing = [result.row.name for result in results if not result.row.published]
    if not missing:
        return "on file for every row"
    return "published value not on file" + (
        " for any row" if len(missing) == len(results) else f" for {', '.join(missing)}"
    )


def describe_time(results: list[RowResult]) -> str:
    """Time measured, time expected for what is missing, and on what: each run once, however many rows share it."""
    runs = {run.run.key: run for result in results for run in result.runs}
    seconds = sum(run.seconds for run in runs.values())
    missing = [run.run for run in runs.values() if run.state != "done"]
    words = [f"{format_hours(seconds / 3600)} measured"] if seconds else []
    if missing:
        count = f"{len(missing)} run{'s' if len(missing) > 1 else ''}"
        words.append(f"{expected_time(missing)} expected for {count}")
        hardware = dict.fromkeys(result.row.hardware for result in results if result.row.hardware)
        words += [f"on {name}" for name in hardware]
    return ", ".join(words)


def reproduce_command(table: Table, seeds: Iterable[int] | None = None) -> str:
    """The command that runs what a table lacks."""
    name = table.path.stem if table.path.stem in all_tables() else str(table.path)
    more = f" --seeds {','.join(map(str, seeds))}" if seeds else ""
    return f"sgre reproduce {shlex.quote(name)} --scale {table.scale}{more}"


def run_blocks(run: RunResult) -> Iterator[Block]:
    """Metrics at full precision, labels, parameters, provenance."""
    cost = run.run.kind == "cost"
    names = COST_COLUMNS if cost else COLUMNS
    lines = [[Cell(name), Cell(repr(run.metrics[name]))] for name in names if run.metrics.get(name) is not None]
    if lines:
        caption = (
            "Costs, in bytes, operations and images a second" if cost else "Metrics at full precision, as fractions"
        )
        yield Block(caption, ["metric", "value"], [Group("", lines)])
    if run.labels:
        labels = [[Cell(name), Cell(repr(value))] for name, value in run.labels.items()]
        yield Block("AP of each label at full precision", ["label", "AP"], [Group("", labels)])
    parameters = [[Cell(name), Cell(json.dumps(value))] for name, value in sorted(run.run.parameters.items())]
    yield Block("Declared parameters; all others have their defaults", ["parameter", "value"], [Group("", parameters)])
    about = run.about
    clean = {True: "yes", False: "no: tracked files differed from the commit"}.get(about.get("clean"), "unknown")
    said = {
        "run": run.folder.name,
        "state": run.state,
        "started (UTC)": about.get("started"),
        "ended (UTC)": about.get("ended"),
        "duration": f"{run.seconds:.1f} s ({format_hours(run.seconds / 3600)})" if run.seconds else None,
        "code version": about.get("code_version"),
        "code as committed": clean if about else None,
        "device": about.get("device"),
        "data fingerprint": about.get("data_fingerprint"),
        **{f"version of {name}": version for name, version in (about.get("versions") or {}).items()},
    }
    lines = [[Cell(name), Cell(str(value))] for name, value in said.items() if value is not None]
    yield Block("Where it comes from", ["what", "value"], [Group("", lines)])
