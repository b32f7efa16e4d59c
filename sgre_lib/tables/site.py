"""The report site: one offline HTML folder with every table, each number leading to its run and executed notebooks.

    index.html                  all tables, both scales apart
    style.css
    tables/<table>.html         a table: numbers, claims, figures, runs; with <table>.csv, .md and its pictures
    runs/<run>/index.html       a run: parameters, metrics, provenance; with its executed notebooks and small files

All addresses are relative and nothing outside the folder is needed, so it can be moved, zipped or put on a server.
`.stamps.json` says what each page was made from: a page is made again only when that has changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from tqdm import tqdm

from .. import figures
from ..base.errors import UserError
from ..base.files import fingerprint, folder_lock, open_atomic, write_json, write_text
from ..base.places import working_root
from ..base.provenance import code_version
from ..reports.convert import export_html
from ..reports.display import CSS_PIXELS_PER_INCH
from . import pages
from .declaration import SCALES, Table, read_table, slugify, table_scales
from .formats import format_choices, format_csv, format_markdown
from .judge import RowResult, RunResult, judge_claims
from .plan import all_tables, find_table, results_folder, table_results
from .reproduce import run_files
from .run import read_json, run_folder

STAMPS = ".stamps.json"

PACKAGE = Path(__file__).parent.parent / "reports"

TEMPLATES = PACKAGE / "templates"

SCALE_TEXTS = {
    "paper": ("Paper scale", "The real datasets, with the parameters of the published commands where there are any."),
    "mini": (
        "Mini scale",
        "The same declarations on the embedded dataset of drawn objects, in minutes on a CPU. It shows that the code "
        "works and what each part is worth there. Nothing here may be held against a published value.",
    ),
}

PICTURES = {
    "history.png": "Training.",
    "label_ap.png": "AP of each label.",
    "precision_recall.png": "Precision and recall.",
    "thresholds.png": "What the threshold costs in F1.",
    "calibration.png": "How far scores can be read as frequencies.",
}
"""Pictures of an experiment folder that a run's page shows, with their captions."""


class Picture(NamedTuple):
    """A PNG on a page, with its size in CSS pixels."""

    address: str
    alt: str
    width: int
    height: int
    caption: str
    heading: str = ""


def build_site(
    out: str | os.PathLike | None = None,
    *,
    tables: Iterable[str | os.PathLike] | str | os.PathLike | None = None,
    scale: str | None = None,
    seeds: Iterable[int] | None = None,
    results: str | os.PathLike | None = None,
    progress: bool = True,
) -> Path:
    """Write the report site, or bring it up to date, and return the path of its index.html.

    out: a new or empty folder, or an earlier report (default experiments/report). tables: names or paths of .toml
    files; None: all of this project. scale: `paper` or `mini` only; None: both. seeds: instead of the declared ones.
    results: where runs are (default experiments/results). Raises UserError before anything is written.
    """
    folder = Path(out).expanduser() if out is not None else working_root() / "experiments" / "report"
    root = Path(results).expanduser() if results is not None else results_folder()
    declared = read_declared(tables, scale, seeds)
    _check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made ({error.strerror})") from None
    with folder_lock(folder, "report"):
        return _Site(folder, root, declared, list(seeds) if seeds else None, progress).build()


def read_declared(
    names: Iterable[str | os.PathLike] | str | os.PathLike | None,
    scale: str | None = None,
    seeds: Iterable[int] | None = None,
) -> list[Table]:
    """The declared tables at each scale that they have, or at the one asked for."""
    if scale is not None and scale not in SCALES:
        raise UserError(f"--scale {scale}: choose from {', '.join(SCALES)}")
    chosen = list(seeds) if seeds else None
    given = [names] if isinstance(names, (str, os.PathLike)) else list(names or [])
    declared: dict[tuple[Path, str], Table] = {}
    for name in given or all_tables():
        path = find_table(name)
        scales = [one for one in table_scales(path) if scale in (None, one)]
        if given and not scales:
            raise UserError(f"{path} has no scale {scale!r}")
        for one in scales:
            declared[path.resolve(), one] = read_table(path, one, chosen)
    return list(declared.values())


def _check_folder(folder: Path) -> None:
    """UserError where the folder is a file or holds anything else than an earlier report."""
    if folder.is_dir():
        others = [path.name for path in folder.iterdir() if path.name != ".lock"]
        if others and STAMPS not in others:
            raise UserError(f"--out {folder} holds something else than a report: choose a new or an empty folder")
    elif folder.exists():
        raise UserError(f"--out {folder} is a file, not a folder")


def _code_stamp(*names: str) -> list[str]:
    """Stamps of parts of this package: pages are made again when the code that makes them has changed."""
    paths = [PACKAGE / name for name in names]
    return _stamps([file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])])


def _stamps(paths: Iterable[Path]) -> list[str]:
    """For each file that is there: path, time of its last change and size."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            said = path.stat()
            found.append(f"{path} {said.st_mtime_ns} {said.st_size}")
    return found


@dataclass
class _Entry:
    """A table of the site: the name of its page, and its results, read when first needed."""

    table: Table
    root: Path
    slug: str

    @property
    def page(self) -> str:
        return f"tables/{self.slug}.html"

    @cached_property
    def results(self) -> list[RowResult]:
        return table_results(self.table, self.root)

    @cached_property
    def claims(self) -> list:
        return judge_claims(self.table, self.results)


@dataclass
class _Site:
    """One build: what is declared, what earlier builds left, what this one has made so far."""

    folder: Path
    root: Path
    declared: list[Table]
    seeds: list[int] | None
    progress: bool
    made: dict[str, dict] = field(default_factory=dict)

    def build(self) -> Path:
        self.stamps = read_json(self.folder / STAMPS) or {}
        if not self.stamps:
            write_json(self.folder / STAMPS, {})  # so that an interrupted first build is known as a report
        self.commit = code_version()
        self.day = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        self.templates = Environment(
            loader=FileSystemLoader(TEMPLATES / "site"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self.code = _code_stamp("site.py", "pages.py", "verdicts.py", "evidence.py", "figures", "templates/site")
        entries, earlier = self._name_entries(), self.stamps
        try:
            self._add("style.css", _code_stamp("templates"), self._make_style)
            self._add_runs(entries)
            self._add_tables(entries)
            self._add("index.html", [self.commit, *self._marks(entries)], lambda: self._make_index(entries))
            self._remove_unused()
            earlier = {}
        finally:  # what an interrupted build has made need not be made again
            if self.made != self.stamps:
                write_json(self.folder / STAMPS, earlier | self.made)
        return self.folder / "index.html"

    def _name_entries(self) -> list[_Entry]:
        entries, taken = [], set()
        for table in self.declared:
            slug, number = slugify(table.name), 2
            while slug in taken:
                slug, number = f"{slugify(table.name)}-{number}", number + 1
            taken.add(slug)
            entries.append(_Entry(table, self.root, slug))
        return entries

    # --- What is made again ----------------------------------------------------------------------------------

    def _add(self, page: str, parts: list[str], make) -> None:
        """Make a page unless what it is made of is as before. make: writes files and returns their names."""
        stamp, before = fingerprint([page, *parts]), self.stamps.get(page, {})
        if before.get("stamp") == stamp and all((self.folder / name).exists() for name in before.get("files", [])):
            self.made[page] = before
        else:
            self.made[page] = {"stamp": stamp, "files": make()}

    def _marks(self, entries: list[_Entry]) -> list[str]:
        return [*self.code, *(f"{entry.page} {self.made[entry.page]['stamp']}" for entry in entries)]

    def _remove_unused(self) -> None:
        """Remove what earlier builds wrote and this site does not have."""
        kept = {name for page in self.made.values() for name in page["files"]}
        for name in {name for page in self.stamps.values() for name in page.get("files", [])} - kept:
            path = self.folder / name
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds other files
                path.parent.rmdir()

    def _render(self, page: str, template: str, **values: Any) -> str:
        values.setdefault("made", f"Made on {self.day} from commit {self.commit}.")
        (self.folder / page).parent.mkdir(parents=True, exist_ok=True)
        text = self.templates.get_template(template).render(root="../" * page.count("/"), **values)
        write_text(self.folder / page, text)
        return page

    def _make_style(self) -> list[str]:
        parts = [TEMPLATES / "report" / "page.css", TEMPLATES / "site" / "site.css"]
        write_text(self.folder / "style.css", "".join(part.read_text(encoding="utf-8") for part in parts))
        return ["style.css"]

    # --- Runs ------------------------------------------------------------------------------------------------

    def _add_runs(self, entries: list[_Entry]) -> None:
        """Pages of all runs that have begun, each once, and of their notebooks."""
        users: dict[str, list[tuple[_Entry, int, int]]] = {}
        self.folders: dict[str, Path] = {}
        for entry in entries:
            for place, row in enumerate(entry.table.rows):
                for number, run in enumerate(row.runs):
                    if run.key not in self.folders:
                        self.folders[run.key] = run_folder(run, self.root)
                    if (self.folders[run.key] / "declared.json").exists():
                        users.setdefault(run.key, []).append((entry, place, number))
        self.notebooks: dict[str, list[str]] = {}
        for key in tqdm(users, desc="runs", unit="run", leave=False, disable=not self.progress):
            folder = self.folders[key]
            problems = self._add_notebooks(folder)
            said = [
                f"{entry.page} {entry.table.title} {entry.table.rows[place].name}" for entry, place, _ in users[key]
            ]
            said += [entry.table.scale for entry, _, _ in users[key]]
            parts = [*_stamps(_run_inputs(folder)), *_stamps(_gallery_inputs(folder)), *said, *problems, *self.code]
            self._add(
                f"runs/{folder.name}/index.html",
                [*parts, *self.notebooks[folder.name]],
                lambda using=users[key], problems=problems: self._make_run(using, problems),
            )

    def _add_notebooks(self, folder: Path) -> list[str]:
        """Convert a run's executed notebooks; returns what could not be."""
        problems, names = [], []
        for notebook in sorted(folder.glob("[0-9]*.ipynb")):
            page = f"runs/{folder.name}/{notebook.stem}.html"
            try:
                self._add(
                    page,
                    [*_stamps([notebook]), *_code_stamp("report.py", "templates/report")],
                    lambda notebook=notebook, page=page: self._make_notebook(notebook, page),
                )
                names.append(f"{notebook.stem}.html")
            except UserError as error:  # half a notebook, of a run that was interrupted or is running
                problems.append(f"{notebook.name} cannot be shown: {str(error).removeprefix(f'{notebook}: ')}")
        self.notebooks[folder.name] = names
        return problems

    def _make_notebook(self, notebook: Path, page: str) -> list[str]:
        export_html(notebook, self.folder / page, trail=[("index.html", f"the run {notebook.parent.name}")])
        return [page]

    def _make_run(self, users: list[tuple[_Entry, int, int]], problems: list[str]) -> list[str]:
        entry, place, number = users[0]
        result = entry.results[place]
        run = result.runs[number]
        page = f"runs/{run.folder.name}/index.html"
        inside = (self.folder / page).parent
        inside.mkdir(parents=True, exist_ok=True)
        copies = [path for path in run_files(run) if path.suffix != ".ipynb"]
        copies += [path for path in [run.folder / "experiment" / "localisation.json"] if path.exists()]
        for path in copies:
            _copy_file(path, inside / path.name)
        pictures = list(self._copy_pictures(run, inside))
        notebooks = [(quote(name), Path(name).stem.replace("_", " ")) for name in self.notebooks[run.folder.name]]
        titles = [(f"../../{quote(one.page)}", f"{one.table.title}: {one.table.rows[at].name}") for one, at, _ in users]
        self._render(
            page, "run.html.j2", title=f"Run: {result.row.name}, seed {run.run.seed}",
            path=[("../../index.html", "All tables"), *titles[:1]], users=titles, error=run.error, notebooks=notebooks,
            problems=problems, files=[(quote(path.name), path.name) for path in copies], blocks=list(pages.run_blocks(run)),
            pictures=pictures,
        )  # fmt: skip
        return [page, *(f"runs/{run.folder.name}/{path.name}" for path in copies),
                *(f"runs/{run.folder.name}/{picture.address}" for picture in pictures)]  # fmt: skip

    def _copy_pictures(self, run: RunResult, inside: Path) -> Iterator[Picture]:
        """The pictures of a run's experiment, and of its heatmaps a hit, a false alarm and a miss."""
        experiment = run.folder / "experiment"
        sources = [(experiment / name, name, caption) for name, caption in PICTURES.items()]
        sources += [
            (path, f"heatmap-{number}.png", f"Where the labels look: {path.parent.name}, chosen by rule.")
            for number, path in enumerate(choose_heatmaps(experiment), 1)
        ]
        for source, name, caption in sources:
            picture = describe_picture(source, name, caption) if source.exists() else None
            if picture:
                _copy_file(source, inside / name)
                yield picture

    # --- Tables ----------------------------------------------------------------------------------------------

    def _add_tables(self, entries: list[_Entry]) -> None:
        cost_files = sorted((self.root / "runs").glob("cost-*/run.json"))
        for entry in tqdm(entries, desc="tables", unit="table", leave=False, disable=not self.progress):
            folders = [self.folders[run.key] for row in entry.table.rows for run in row.runs]
            inputs = [entry.table.path, *cost_files, *(path for folder in folders for path in _run_inputs(folder))]
            shown = [f"{folder.name} {name}" for folder in folders for name in self.notebooks.get(folder.name, [])]
            parts = [*_stamps(inputs), *shown, entry.table.scale, str(self.seeds), *self.code]
            self._add(entry.page, parts, lambda entry=entry, files=cost_files: self._make_table(entry, files))

    def _make_table(self, entry: _Entry, cost_files: list[Path]) -> list[str]:
        table, results = entry.table, entry.results
        folder = self.folder / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        costs = [content for path in cost_files if (content := read_json(path))]
        pictures = []
        # A name may hold dollar signs: they are no formulas.
        with matplotlib.rc_context({"text.parse_math": False}):
            for drawing in pages.draw_table(table, results, costs) if table.kind == "accuracy" else ():
                name = f"{entry.slug}-{drawing.stem}.png"
                figures.save_figure(drawing.figure, folder / name)
                picture = describe_picture(folder / name, name, drawing.caption)
                pictures.append(picture._replace(heading=drawing.heading))
        write_text(folder / f"{entry.slug}.csv", format_csv(results))
        write_text(folder / f"{entry.slug}.md", format_markdown(table, results, entry.claims))
        scale = SCALE_TEXTS[table.scale][0]
        done = all(result.state == "done" for result in results)
        facts = [pages.describe_rows(results), pages.describe_published(table, results), pages.describe_time(results)]
        self._render(
            entry.page, "table.html.j2", title=table.title, path=[("../index.html", "All tables")],
            facts=f"{scale}. Rows: " + ". ".join(fact[:1].upper() + fact[1:] if number else fact
                                                 for number, fact in enumerate(facts) if fact) + ".",
            about=table.about.strip(), command="" if done else pages.reproduce_command(table, self.seeds),
            results=list(pages.result_blocks(table, results)),
            problems=[f"{result.row.name} failed: {result.error}" for result in results if result.state == "failed"],
            claims=pages.claim_block(table, results, entry.claims),
            sentences=[f"{claim.verdict}: {claim.sentence}" for claim in entry.claims], pictures=pictures,
            localisation=pages.localisation_block(results), rows=pages.row_block(results),
            shared=pages.shared_block(results), choices=format_choices(results),
            evidence=pages.evidence_block(results, self.notebooks),
            files=[(f"{entry.slug}.{kind}", kind.upper() if kind == "csv" else "Markdown") for kind in ("csv", "md")],
        )  # fmt: skip
        names = [f"{entry.slug}.csv", f"{entry.slug}.md", *(picture.address for picture in pictures)]
        return [entry.page, *(f"tables/{name}" for name in names)]

    def _make_index(self, entries: list[_Entry]) -> list[str]:
        scales = []
        for scale, (heading, about) in SCALE_TEXTS.items():
            lines = []
            for entry in entries:
                if entry.table.scale != scale:
                    continue
                table, results = entry.table, entry.results
                done = all(result.state == "done" for result in results)
                texts = [
                    pages.describe_rows(results), pages.describe_claims(entry.claims),
                    pages.describe_published(table, results), pages.describe_time(results) or "-",
                    "-" if done else pages.reproduce_command(table, self.seeds),
                ]  # fmt: skip
                title = pages.Cell(table.title, ((quote(entry.page), table.title),))
                lines.append([title, *map(pages.Cell, texts)])
            header = ["table", "rows", "claims", "published values", "time", "to run what is missing"]
            if lines:
                block = pages.Block(f"Tables at {heading.lower()}", header, [pages.Group("", lines)])
                scales.append((scale, heading, about, block))
        self._render("index.html", "index.html.j2", title="SGRE reproduced: all tables", path=[], scales=scales)
        return ["index.html"]


def _run_inputs(folder: Path) -> list[Path]:
    """The files that say a run's state and numbers."""
    own = ("declared.json", "run.json", "failed.json", "cost.json", "resamples.npy")
    of_experiment = ("result.json", "history.csv", "config.yaml", "localisation.json", "targets.npy", *PICTURES)
    return [*(folder / name for name in own), *(folder / "experiment" / name for name in of_experiment)]


def _gallery_inputs(folder: Path) -> list[Path]:
    return sorted((folder / "experiment" / "visualization").glob("*/heatmap.*"))


def choose_heatmaps(experiment: Path) -> list[Path]:
    """Of an experiment's drawn heatmaps one of each kind: a hit, a false alarm and a miss."""
    if not (experiment / "visualization").is_dir():
        return []
    from ..heatmaps.photo_choice import choose_gallery

    return choose_gallery(experiment)


def describe_picture(path: Path, address: str, caption: str) -> Picture | None:
    """A PNG that `save_figure` wrote, with the alt text it carries and its size; None for any other."""
    try:
        with Image.open(path) as picture:
            alt = picture.info.get("Description", "").strip()
            dpi = picture.info.get("dpi", (CSS_PIXELS_PER_INCH,))[0]
            width, height = (round(side / dpi * CSS_PIXELS_PER_INCH) for side in picture.size)
    except OSError:
        return None
    return Picture(address, alt, width, height, caption) if alt else None


def _copy_file(source: Path, target: Path) -> None:
    with open(source, "rb") as file, open_atomic(target, "wb") as copy:
        shutil.copyfileobj(file, copy)
