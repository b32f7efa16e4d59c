"""What notebooks 20 and 21, the pages of the report, show: tables whose numbers lead to their runs, and figures.

Each function returns header and lines (`formats.Cells`), figures or text; without lines, figures or text where there is
nothing to say. Addresses are relative to the folder that the executed notebook is kept in: the table's own for
notebook 20, the folder of results for notebook 21.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from .. import figures
from ..base.errors import UserError
from ..base.settings import TrainSettings
from ..figures import CostPoint
from ..reports.display import figure_output, markdown_output, table_output
from ..training.history import read_history
from . import formats
from .declaration import COST_PARAMETERS
from .formats import Cells, link_to
from .judge import RowResult, format_metric, format_percent, judge_row
from .notebooks import COST, EVALUATE, REPORT
from .plan import format_hours, table_argument
from .results import TableResult
from .run_folder import RunResult, read_json

COSTLY = ("model", "arch", "image_size", "branches", "output_stride", "num_layers", "rm_cls")
"""Settings that decide how many operations a forward pass takes, besides the number of labels."""

MOST_LINES = 8
"""Curves, or models label by label, that one figure can hold and still be read."""

LOCALISATION = ("pointing", "pointing_chance", "pointing_ceiling", "share", "share_chance", "share_ceiling")


def show_table(cells: Cells, caption: str) -> None:
    """Show header and lines as a table; nothing where there are no lines."""
    if cells[1]:
        table_output(*cells, caption)


def show_figures(drawn: dict[str, Figure]) -> None:
    """Show figures, each under its name as a heading of the third level where it has one."""
    for name, figure in drawn.items():
        if name:
            markdown_output(f"### {escape(name)}")
        figure_output(figure)


# --- Addresses -----------------------------------------------------------------------------------------------------


def run_address(run: RunResult, found: TableResult) -> str:
    """Where a run's numbers lead: to its evaluation or cost notebook, else to its last notebook; empty before that."""
    named = {path.stem: path for path in run.notebooks} if run.state != "not run" else {}
    path = named.get(EVALUATE) or named.get(COST) or next(reversed(named.values()), None)
    return _address(path, found.folder) if path else ""


def row_links(found: TableResult) -> dict[str, str]:
    """For each row where its numbers lead: to its run or, with several seeds, to the list of its runs."""
    links = {}
    for row in found.rows:
        several = len(row.runs) > 1 and any(run.state != "not run" for run in row.runs)
        links[row.row.name] = f"#runs-{row.row.slug}" if several else run_address(row.runs[0], found)
    return {name: link for name, link in links.items() if link}


def _address(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


# --- A table's page ------------------------------------------------------------------------------------------------


def describe_table(found: TableResult) -> str:
    """State and declared text of a table, as Markdown."""
    facts = [f"{found.table.scale} scale", found.describe_rows(), describe_published(found), found.describe_time()]
    said = "".join(f"{fact[0].upper()}{fact[1:]}. " for fact in facts if fact)
    return escape(f"{said}\n\n{found.table.about}", quote=False)


def describe_remarks(found: TableResult) -> str:
    """What is to be said of single rows: failures, floors, and choices of ours; a Markdown list."""
    remarkable = [row for row in found.rows if row.state not in ("done", "not run") or (row.done and row.row.at_least)]
    said = [*(f"{row.row.name}: {judge_row(row)}" for row in remarkable), *formats.describe_choices(found)]
    return "\n".join(f"- {escape(sentence, quote=False)}" for sentence in said)


def describe_published(found: TableResult) -> str:
    """What of the published values is on file."""
    if found.table.kind == "cost":
        return "nothing to compare with: costs are measured here"
    if not formats.has_published(found):
        return "nothing is published for mini"
    missing = [row.row.name for row in found.rows if not row.row.published]
    if not missing:
        return "on file for every row"
    which = " for any row" if len(missing) == len(found.rows) else f" for {', '.join(missing)}"
    return "published value not on file" + which


def describe_claims(found: TableResult) -> str:
    """How many claims there are of each verdict: `holds: 2, not decided: 1`."""
    counts = found.claims.verdict.value_counts(sort=False)
    return ", ".join(f"{verdict}: {number}" for verdict, number in counts.items()) or "no claim is declared"


def describe_command(found: TableResult, seeds: Iterable[int] | None = None) -> str:
    """How to run what is missing or, where all is done, all of it again; Markdown."""
    done = all(row.state == "done" for row in found.rows)
    command = reproduce_command(found, seeds)
    if done:
        return f"Every row is done. `{command} --force` runs all again and keeps what was there under another name."
    return f"What is missing runs with `{command}`."


def reproduce_command(found: TableResult, seeds: Iterable[int] | None = None) -> str:
    """The command that runs what a table lacks."""
    more = f" --seeds {','.join(map(str, seeds))}" if seeds else ""
    return f"sgre reproduce {shlex.quote(table_argument(found.table))} --scale {found.table.scale}{more}"


def claim_cells(found: TableResult) -> Cells:
    """What became of each claim, with the interval of the difference."""
    lines, links, rows = [], row_links(found), {row.row.name: row for row in found.rows}
    for claim in found.claims.itertuples():
        share = "-" if np.isnan(claim.probability) else f"{100 * claim.probability:.0f} %"
        values = [(name, format_metric(rows[name], claim.metric)) for name in (claim.better, claim.than)]
        shown = [link_to(links.get(name), value) for name, value in values]
        said = f"{claim.better} is better than {claim.than} in {claim.metric}"
        lines.append([said, claim.verdict, formats.format_difference(claim), share, *shown])
    return ["claim", "verdict", "difference (95 % interval)", "resamples above 0", "better", "than"], lines


def narrow_label_cells(found: TableResult) -> Cells:
    """AP label by label where others publish it or the rows are few; wider it is unreadable."""
    few = 0 < len(found.labels.columns) <= MOST_LINES
    return formats.label_cells(found, row_links(found)) if few or formats.publishes_labels(found) else formats.NOTHING


def rule_cells(found: TableResult) -> Cells:
    """For each row what mAP is under either rule, and how many labels the rule for empty ones touched; first seeds."""
    lines = []
    for row in found.rows:
        said = read_json(row.shown.folder / "experiment" / "result.json") if row.done else None
        if said and "mAP_non_interpolated" in said:
            touched = [len(said[key]) for key in ("labels_never_predicted", "labels_without_positives")]
            texts = [format_percent(said[key]) for key in ("mAP", "mAP_non_interpolated")]
            rules = [link_to(run_address(row.shown, found), text) for text in texts]
            lines.append([row.row.name, *rules, said["never_predicted"], said["threshold"], *touched])
    header = ["row", "mAP interpolated", "mAP non-interpolated", "never predicted counts", "threshold",
              "labels never predicted", "labels without a test image"]  # fmt: skip
    return header, lines


def row_cells(found: TableResult) -> Cells:
    """What each row is: words, the settings in which rows differ, seeds, and the time a run takes."""
    values = _settings(found)
    differing = {name: texts for name, texts in values.items() if len(set(texts)) > 1}
    lines = []
    for number, result in enumerate(found.rows):
        row = result.row
        marked = [texts[number] + (" (ours)" if name in row.ours else "") for name, texts in differing.items()]
        expected = format_hours(row.hours) if row.hours is not None else "-"
        took = format_hours(result.seconds / 3600) if result.seconds else "-"
        seeds = ", ".join(map(str, row.seeds))
        lines.append([row.name, row.about or "-", *marked, seeds, expected, row.hardware or "-", took])
    header = ["row", "what it is", *differing, "seeds", "expected a run", "on", "measured"]
    return header, formats.group_lines(found, lines)


def shared_cells(found: TableResult) -> Cells:
    """The settings that all rows have in common, and which of them are our choice."""
    ours = set.intersection(*(set(row.row.ours) for row in found.rows))
    with_choice = found.table.scale != "mini"
    lines = [
        [name, texts[0], *(["ours" if name in ours else "as published or by default"] if with_choice else [])]
        for name, texts in _settings(found).items()
        if len(set(texts)) == 1
    ]
    return ["setting", "value", "whose choice"][: 2 + with_choice], lines


def _settings(found: TableResult) -> dict[str, list[str]]:
    """Every setting that some row declares, with each row's value as text."""
    defaults = vars(TrainSettings()) | COST_PARAMETERS
    names = sorted({name for row in found.rows for name in row.row.parameters})
    return {name: [str(row.row.parameters.get(name, defaults[name])) for row in found.rows] for name in names}


def run_cells(found: TableResult) -> Cells:
    """The runs behind each row: where every number comes from. Row by row, with an anchor `runs-<slug>` each."""
    lines = []
    for row in found.rows:
        lines.append([Markup('<span id="runs-{}">{}</span>').format(row.row.slug, row.row.name)])
        for run in row.runs:
            place, about, value = run_address(run, found), run.about, format_metric(RowResult(row.row, [run]), "mAP")
            seed = f"seed {run.run.seed}"
            paths = [*run.notebooks, *run.files] if run.state != "not run" else []
            links = [link_to(_address(path, found.folder), path.stem) for path in paths]
            lines.append([
                link_to(place, seed), run.state, *([link_to(place, value)] if found.table.kind != "cost" else []),
                (about.get("started") or "-")[:16].replace("T", " "),
                format_hours(run.seconds / 3600) if run.seconds else "-",
                about.get("code_version") or "-", about.get("device") or "-", Markup(", ").join(links) or "-",
            ])  # fmt: skip
    value = ["mAP"] if found.table.kind != "cost" else []
    return ["run", "state", *value, "started (UTC)", "took", "code", "device", "executed notebooks and files"], lines


def localisation_cells(found: TableResult) -> Cells:
    """How well heatmaps find their labels' boxes, of the runs that `sgre localise` has measured."""
    lines = []
    for row in found.rows:
        for run in row.done:
            measured = read_localisation(run)
            if measured:
                name = row.row.name + (f", seed {run.run.seed}" if len(row.runs) > 1 else "")
                texts = [format_percent(measured["mean_over_labels"][key]) for key in LOCALISATION]
                place = run_address(run, found)
                lines.append([name, *(link_to(place, text) for text in texts), measured["map"]])
    return ["row", "pointing", "its chance", "its ceiling", "share", "its chance", "its ceiling", "map"], lines


def read_localisation(run: RunResult) -> dict | None:
    """What `sgre localise` wrote of a run, or None."""
    found = read_json(run.folder / "experiment" / "localisation.json")
    return found if found and found.get("labels") else None


# --- Its figures ---------------------------------------------------------------------------------------------------


def draw_groups(found: TableResult) -> dict[str, Figure]:
    """Of each group with at least two rows to compare, their mAP with intervals and published values."""
    drawn = {}
    for group, rows in _groups(found).items():
        values = {row.row.name: row.metrics["mAP"] for row in rows}
        texts = {row.row.name: format_metric(row, "mAP") for row in rows}
        published = {row.row.name: row.row.published["mAP"] for row in rows if "mAP" in row.row.published}
        intervals = {row.row.name: row.interval("mAP") for row in rows if row.interval("mAP")}
        drawn[group] = figures.draw_comparison(values, published=published, intervals=intervals, texts=texts)
    return drawn


def draw_training(found: TableResult) -> dict[str, Figure]:
    """Of each group, the test mAP of the moving average over epochs; the first rows, and of each its first seed."""
    drawn = {}
    for group, rows in _groups(found).items():
        histories = {}
        for row in rows[:MOST_LINES]:
            with contextlib.suppress(UserError):  # no curve, and nothing else that hangs on it
                histories[row.row.name] = read_history(row.shown.folder / "experiment")
        if histories:
            drawn[group] = figures.draw_histories(histories)
    return drawn


def _groups(found: TableResult) -> dict[str, list[RowResult]]:
    """The measured rows by group; a group of one has nothing to compare, unless it is the only one."""
    groups: dict[str, list[RowResult]] = {}
    for row in _measured(found):
        groups.setdefault(row.row.group, []).append(row)
    return groups if len(groups) == 1 else {group: rows for group, rows in groups.items() if len(rows) > 1}


def _measured(found: TableResult) -> list[RowResult]:
    """The rows with a result, in each group without those that share all their runs with one before them."""
    first: dict[tuple, RowResult] = {}
    for row in found.rows:
        if "mAP" in row.metrics:
            first.setdefault((row.row.group, *(run.run.key for run in row.runs)), row)
    return list(first.values())


def draw_labels(found: TableResult) -> dict[str, Figure]:
    """The best row label by label against the baseline, or else three others, and what others published."""
    rows = _measured(found)
    if not rows or not any(row.labels for row in rows):
        return {}
    best = max(rows, key=lambda row: row.metrics["mAP"])
    names = list(best.labels)
    others = [row for row in rows if row is not best and list(row.labels) == names]
    baseline = [row for row in others if row.row.name == found.table.baseline]
    shown = [best, *(baseline or others[: 0 if found.table.baseline else 3])]
    values = {row.row.name: np.array(list(row.labels.values())) for row in shown}
    published = {
        entry["method"]: np.array([entry["labels"].get(name, np.nan) for name in names])
        for entry in found.table.context
        if entry.get("labels")
    }
    return {"": figures.draw_label_ap(names, values, published=published)}


def draw_costs(found: TableResult) -> dict[str, Figure]:
    """Rows' mAP over the operations of one image's forward pass, from the cost runs with the same settings."""
    costs = [said for path in sorted((found.root / "runs").glob("cost-*/run.json")) if (said := read_json(path))]
    points = [
        CostPoint(row.row.name, gflops, row.metrics["mAP"], *(row.interval("mAP") or ()))
        for row in _measured(found)
        if (gflops := find_gflops(row, costs)) is not None
    ]
    return {"": figures.draw_cost(points)} if len({point.cost for point in points}) > 1 else {}


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


def draw_pointing(found: TableResult) -> dict[str, Figure]:
    """How often a heatmap's peak is in a box of its label, label by label; the first seed of each row."""
    measured = {row.row.name: read_localisation(row.shown) for row in _measured(found)}
    measured = {name: one["labels"] for name, one in measured.items() if one}
    if not measured:
        return {}
    first = next(iter(measured.values()))
    same = {name: labels for name, labels in list(measured.items())[:MOST_LINES] if labels.keys() == first.keys()}
    pointing = {name: np.array([labels[label]["pointing"] for label in first]) for name, labels in same.items()}
    chance = np.array([line["pointing_chance"] for line in first.values()])
    return {"": figures.draw_localisation(list(first), pointing, chance)}


def choose_heatmaps(found: TableResult) -> list[Path]:
    """From the first row with heatmaps the pictures of a hit, a false alarm and a miss."""
    experiments = [row.shown.folder / "experiment" for row in found.rows if row.done]
    drawn = [folder for folder in experiments if (folder / "visualization").is_dir()]
    if not drawn:
        return []
    from ..heatmaps.photo_choice import choose_gallery  # needs torch

    return next(filter(None, map(choose_gallery, drawn)), [])


# --- All tables ----------------------------------------------------------------------------------------------------


def overview_cells(everything: list[TableResult], scale: str, seeds: Iterable[int] | None = None) -> Cells:
    """Of the tables at a scale: rows, claims, published values, time, and the command for what is missing."""
    lines = []
    for found in everything:
        if found.table.scale == scale:
            page = link_to(_address(found.folder / f"{REPORT}.ipynb", found.root), found.table.title)
            said = [found.describe_rows(), describe_claims(found), describe_published(found)]
            done = all(row.state == "done" for row in found.rows)
            lines.append([page, *said, found.describe_time() or "-", "-" if done else reproduce_command(found, seeds)])
    return ["table", "rows", "claims", "published values", "time", "to run what is missing"], lines


def verdict_cells(everything: list[TableResult]) -> Cells:
    """Every claim that could be judged, table by table, in a sentence."""
    lines = []
    for found in everything:
        judged = found.claims[found.claims.verdict != "not measured"]
        lines += [[found.table.title]] if len(judged) else []
        lines += [[f"{one.better} over {one.than}", one.verdict, one.sentence] for one in judged.itertuples()]
    return ["claim", "verdict", "evidence"], lines
