"""What notebooks 20 and 21, the pages of the report, show: tables whose numbers lead to their runs, and figures.

Each function returns header and lines (`formats.Cells`), figures or text; without lines, figures or text where there is
nothing to say. Addresses are relative to the folder that the executed notebook is kept in: the table's own for
notebook 20, the folder of results for notebook 21.
"""

import contextlib
import os
import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from .. import figures
from ..base.errors import UserError
from ..base.settings import TrainSettings
from ..figures import CostPoint
from ..reports.display import figure_output, markdown_output, table_output
from ..training.history import read_history
from .declaration import COST_PARAMETERS
from .formats import Cells, describe_choices, format_difference, has_published, link_to, make_cells, make_row_cells
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
    said = [*(f"{row.row.name}: {judge_row(row)}" for row in remarkable), *describe_choices(found)]
    return "\n".join(f"- {escape(sentence, quote=False)}" for sentence in said)


def describe_published(found: TableResult) -> str:
    """What of the published values is on file."""
    if found.table.kind == "cost":
        return "nothing to compare with: costs are measured here"
    if not has_published(found):
        return "nothing is published for mini"
    missing = [row.row.name for row in found.rows if not row.row.published]
    which = "any row" if len(missing) == len(found.rows) else ", ".join(missing)
    return f"published value not on file for {which}" if missing else "on file for every row"


def reproduce_command(found: TableResult, seeds: Iterable[int] | None = None) -> str:
    """The command that runs what a table lacks."""
    more = f" --seeds {','.join(map(str, seeds))}" if seeds else ""
    return f"sgre reproduce {shlex.quote(table_argument(found.table))} --scale {found.table.scale}{more}"


def claim_cells(found: TableResult) -> Cells:
    """What became of each claim, with the interval of the difference."""
    links, rows = row_links(found), {row.row.name: row for row in found.rows}
    return make_cells([
        {
            "claim": f"{claim.better} is better than {claim.than} in {claim.metric}",
            "verdict": claim.verdict,
            "difference (95 % interval)": format_difference(claim),
            "resamples above 0": "-" if np.isnan(claim.probability) else f"{100 * claim.probability:.0f} %",
            "better": link_to(links.get(claim.better), format_metric(rows[claim.better], claim.metric)),
            "than": link_to(links.get(claim.than), format_metric(rows[claim.than], claim.metric)),
        }
        for claim in found.claims.itertuples()
    ])  # fmt: skip


def rule_cells(found: TableResult) -> Cells:
    """For each row what mAP is under either rule, and how many labels the rule for empty ones touched; first seeds."""
    lines = []
    for row in found.rows:
        said = read_json(row.shown.folder / "experiment" / "result.json") if row.done else None
        if said and "mAP_non_interpolated" in said:
            address = run_address(row.shown, found)
            lines.append({
                "row": row.row.name,
                "mAP interpolated": link_to(address, format_percent(said["mAP"])),
                "mAP non-interpolated": link_to(address, format_percent(said["mAP_non_interpolated"])),
                "never predicted counts": said["never_predicted"],
                "threshold": said["threshold"],
                "labels never predicted": len(said["labels_never_predicted"]),
                "labels without a test image": len(said["labels_without_positives"]),
            })  # fmt: skip
    return make_cells(lines)


def row_cells(found: TableResult) -> Cells:
    """What each row is: words, the settings in which rows differ, seeds, and the time a run takes."""
    settings = _settings(found)
    differing = settings.loc[:, settings.nunique() > 1]
    lines = []
    for result, values in zip(found.rows, differing.to_dict("records"), strict=True):
        row = result.row
        lines.append({
            "row": row.name,
            "what it is": row.about or "-",
            **{name: text + (" (ours)" if name in row.ours else "") for name, text in values.items()},
            "seeds": ", ".join(map(str, row.seeds)),
            "expected a run": format_hours(row.hours) if row.hours is not None else "-",
            "on": row.hardware or "-",
            "measured": format_hours(result.seconds / 3600) if result.seconds else "-",
        })  # fmt: skip
    return make_row_cells(found, lines)


def shared_cells(found: TableResult) -> Cells:
    """The settings that all rows have in common and, but at mini scale, which of them are our choice."""
    settings, lines = _settings(found), []
    for name, value in settings.loc[:, settings.nunique() == 1].iloc[0].items():
        ours = all(name in row.row.ours for row in found.rows)
        choice = {"whose choice": "ours" if ours else "as published or by default"}
        lines.append({"setting": name, "value": value} | (choice if found.table.scale != "mini" else {}))
    return make_cells(lines)


def _settings(found: TableResult) -> pd.DataFrame:
    """Every setting that some row declares, with each row's value as text; a line a row, a column a setting."""
    defaults = vars(TrainSettings()) | COST_PARAMETERS
    names = sorted({name for row in found.rows for name in row.row.parameters})
    return pd.DataFrame([{name: str((defaults | row.row.parameters)[name]) for name in names} for row in found.rows])


def run_cells(found: TableResult) -> Cells:
    """The runs behind each row: where every number comes from. Row by row, with an anchor `runs-<slug>` each."""
    lines, groups = [], []
    for row in found.rows:
        for run in row.runs:
            place, paths = run_address(run, found), [*run.notebooks, *run.files] if run.state != "not run" else []
            value = link_to(place, format_metric(RowResult(row.row, [run]), "mAP"))
            links = [link_to(_address(path, found.folder), path.stem) for path in paths]
            lines.append({
                "run": link_to(place, f"seed {run.run.seed}"),
                "state": run.state,
                **({"mAP": value} if found.table.kind != "cost" else {}),
                "started (UTC)": (run.about.get("started") or "-")[:16].replace("T", " "),
                "took": format_hours(run.seconds / 3600) if run.seconds else "-",
                "code": run.about.get("code_version") or "-",
                "device": run.about.get("device") or "-",
                "executed notebooks and files": Markup(", ").join(links) or "-",
            })  # fmt: skip
            groups.append(Markup('<span id="runs-{}">{}</span>').format(row.row.slug, row.row.name))
    return make_cells(lines, groups)


def localisation_cells(found: TableResult) -> Cells:
    """How well heatmaps find their labels' boxes, of the runs that `sgre localise` has measured."""
    lines = []
    for row in found.rows:
        for run in row.done:
            if measured := read_localisation(run):
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

    def read_costly(parameters: dict[str, Any]) -> list[Any]:
        values = vars(TrainSettings()) | parameters
        return [values.get(name) for name in (*COSTLY, "label_count")]

    wanted = read_costly(result.row.parameters | {"label_count": len(result.labels)})
    same = (cost for cost in costs if read_costly(cost.get("parameters", {})) == wanted)
    return next(same, {}).get("metrics", {}).get("gflops")


def draw_pointing(found: TableResult) -> dict[str, Figure]:
    """How often a heatmap's peak is in a box of its label, label by label; the first seed of each row."""
    read = {row.row.name: read_localisation(row.shown) for row in _measured(found)}
    measured = {name: one["labels"] for name, one in read.items() if one}
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
            verdicts = found.claims.verdict.value_counts(sort=False)
            done = all(row.state == "done" for row in found.rows)
            lines.append({
                "table": link_to(_address(found.folder / f"{REPORT}.ipynb", found.root), found.table.title),
                "rows": found.describe_rows(),
                "claims": ", ".join(f"{one}: {count}" for one, count in verdicts.items()) or "no claim is declared",
                "published values": describe_published(found),
                "time": found.describe_time() or "-",
                "to run what is missing": "-" if done else reproduce_command(found, seeds),
            })  # fmt: skip
    return make_cells(lines)


def verdict_cells(everything: list[TableResult]) -> Cells:
    """Every claim that could be judged, table by table, in a sentence."""
    judged = [(found.table.title, one) for found in everything for one in found.claims.itertuples()]
    judged = [(title, one) for title, one in judged if one.verdict != "not measured"]
    lines = [{"claim": f"{a.better} over {a.than}", "verdict": a.verdict, "evidence": a.sentence} for _, a in judged]
    return make_cells(lines, [title for title, _ in judged])
