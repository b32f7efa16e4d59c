"""Table files: what is to be run, what was published, and what the table claims.

A table file says

    title = "..."                     # what the table shows
    about = "..."                     # a few sentences for the report
    kind = "accuracy"                 # or "cost": rows measure speed and memory, and need no data
    baseline = "name of a row"        # optional: the row that figures compare with
    scales = ["mini"]                 # optional: `paper` and `mini` where it is left out
    seeds = [0, 1, 2]                 # optional: of every row; default the `seed` of the parameters, else 0
    hours = 7                         # optional: expected for one run, our estimate, on
    hardware = "one A100"
    ours = ["epochs"]                 # parameters that are our choice, not published
    heatmaps = 9                      # photos that notebook 05 draws for each run; 0 leaves the notebook out

    [parameters]                      # settings of every row: names of TrainSettings
    data = "mini"

    [scale.mini]                      # optional: what --scale mini changes; also hours, hardware, heatmaps, seeds
    [scale.mini.parameters]

    [[rows]]
    name = "SGRE"
    group = "branches"                # optional: heading inside the table
    about = "..."                     # optional
    parameters = { lamda = 0.4 }      # on top of the table's
    mini = { lamda = 0.2 }            # parameters at mini scale, over everything else
    scales = ["paper"]                # optional: where the row is left out elsewhere
    seeds = [0]                       # seeds, ours, hours and hardware as for the table, for this row
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
    labels = { cat = 0.98 }           # optional: AP of single labels
    source = "..."

At mini scale a table of a real dataset keeps its rows and claims; what was published about the real dataset
(`published`, `at_least`, `[[context]]`) is left out, because nothing measured on `mini` may be held against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.files import fingerprint, read_toml
from ..base.settings import MachineSettings, TrainSettings, make_settings
from ..evaluation.intervals import COLUMNS

KINDS = ("accuracy", "cost")

SCALES = ("paper", "mini")

DEFAULT_TOLERANCE = 0.005
"""Fraction: half a point of mAP, within what reruns by others differ."""

DEFAULT_HEATMAPS = 9

STAND_IN = {
    "accuracy": "At mini scale: the rows were run on the drawn dataset mini, with small backbones and few epochs. They "
    "show that the whole way works, and say nothing about the real dataset, of which the rest of this text speaks.",
    "cost": "At mini scale: few steps of small batches, on a small machine.",
}
"""What the report of a table says first at mini scale, by kind."""

COST_PARAMETERS = {"label_count": 80, "embedding_size": 768, "steps": 5}
"""What a cost row says besides settings: labels, width of their text vectors, timed steps; with defaults."""

KEY_DEFAULTS = {"lr": 9e-5, "batch_size": 128, "lamda": 0.1}
"""Defaults that were others when runs were first stored. Keys count from them, so that those runs are still found."""

TABLE_ENTRIES = (
    "title", "about", "kind", "baseline", "scales", "seeds", "hours", "hardware", "ours", "heatmaps", "parameters",
    "scale", "rows", "claims", "context",
)  # fmt: skip

SCALE_ENTRIES = ("parameters", "hours", "hardware", "heatmaps", "seeds")

ROW_ENTRIES = (
    "name", "group", "about", "parameters", "mini", "scales", "seeds", "ours", "hours", "hardware", "published",
    "source", "tolerance", "at_least",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One set of parameters with one seed: what is executed, once, for all rows that ask for it.

    kind: a table's. parameters: settings as declared, with `seed`. slug: of the row that asks.
    """

    kind: str
    parameters: dict[str, Any]
    slug: str
    hours: float | None = None
    heatmaps: int = DEFAULT_HEATMAPS

    @property
    def seed(self) -> int:
        return self.parameters["seed"]

    @property
    def key(self) -> str:
        """8 hexadecimal digits: equal for equal parameters, whether a default is written out or not."""
        defaults = vars(TrainSettings()) | COST_PARAMETERS
        values = defaults | self.parameters
        said = {name: value for name, value in values.items() if value != KEY_DEFAULTS.get(name, defaults[name])}
        return fingerprint([self.kind, *(f"{name}={said[name]!r}" for name in sorted(said))])[:8]

    @property
    def name(self) -> str:
        """The run's folder: data, row, seed and key."""
        data = "cost" if self.kind == "cost" else slugify(Path(self.parameters["data"]).name)
        return f"{data}-{self.slug}-s{self.seed}-{self.key}"


@dataclass(frozen=True)
class Row:
    """One line of a table. parameters: complete with the table's, without the seed. See the top for the other fields.

    stand_in: at a scale that replaces the real dataset by `mini`.
    """

    name: str
    parameters: dict[str, Any]
    kind: str = "accuracy"
    group: str = ""
    about: str = ""
    seeds: tuple[int, ...] = (0,)
    ours: tuple[str, ...] = ()
    hours: float | None = None
    hardware: str = ""
    heatmaps: int = DEFAULT_HEATMAPS
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""
    tolerance: float = DEFAULT_TOLERANCE
    at_least: dict[str, float] = field(default_factory=dict)
    stand_in: bool = False

    @property
    def slug(self) -> str:
        """The name as a part of a folder's name."""
        return slugify(self.name)

    @property
    def runs(self) -> list[Run]:
        """The runs behind this row, one a seed."""
        return [
            Run(self.kind, self.parameters | {"seed": seed}, self.slug, self.hours, self.heatmaps)
            for seed in self.seeds
        ]


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
    kind: str = "accuracy"
    scales: tuple[str, ...] = SCALES


def slugify(name: str) -> str:
    """A name as a folder name: letters, digits and dashes, lower case."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"


def read_table(path: str | Path, scale: str = "paper", seeds: list[int] | None = None) -> Table:
    """Read and check a table file. Raises UserError naming the file and the entry that cannot be.

    scale: where the file has one scale only, that one is read whatever is asked for. seeds: instead of those declared.
    """
    path = Path(path)
    content = read_toml(path, "table file")
    _refuse_unknown(content, TABLE_ENTRIES, str(path))
    scales = _read_scales(content, str(path))
    if scale not in scales:
        if len(scales) > 1:
            raise UserError(f"{path} has no scale {scale!r}, only {', '.join(scales)}")
        scale = scales[0]
    kind = content.get("kind", "accuracy")
    if kind not in KINDS:
        raise UserError(f"{path}: kind {kind!r}: choose from {', '.join(KINDS)}")
    rows, names = _read_rows(path, content, scale, scales, seeds)
    here = {row.name for row in rows}
    claims = _read_claims(content, names, kind, path)
    context = _read_context(content, path)
    baseline = content.get("baseline")
    if baseline is not None and baseline not in names:
        raise UserError(f"{path}: baseline {baseline!r} is no row")
    title, about, stand_in = content.get("title", path.stem), content.get("about", "").strip(), scale != scales[0]
    return Table(
        name=path.stem + (f"-{scale}" if stand_in else ""),
        path=path,
        title=f"{title}, at mini scale" if stand_in else title,
        about=f"{STAND_IN[kind]} {about}" if stand_in else about,
        scale=scale,
        rows=rows,
        claims=[claim for claim in claims if claim["better"] in here and claim["than"] in here],
        context=[] if stand_in else context,
        baseline=baseline if baseline in here else None,
        kind=kind,
        scales=tuple(scales),
    )


def table_scales(path: str | Path) -> list[str]:
    """The scales that a table file has, its own first."""
    return _read_scales(read_toml(path, "table file"), str(path))


def _read_scales(entry: dict, where: str) -> list[str]:
    scales = entry.get("scales", list(SCALES))
    if not isinstance(scales, list) or not scales or not set(scales) <= set(SCALES):
        raise UserError(f"{where}: scales must be some of {', '.join(SCALES)}")
    return scales


def _read_rows(
    path: Path, content: dict, scale: str, scales: list[str], seeds: list[int] | None
) -> tuple[list[Row], list[str]]:
    """The rows at a scale, and the names of all rows of the file."""
    entries = content.get("rows", [])
    if not entries:
        raise UserError(f"{path} declares no [[rows]]")
    # A row that is left out of this scale is checked all the same, so that claims about it are known to be right.
    every = [_read_row(path, number, entry, content, scale, scales, seeds) for number, entry in enumerate(entries, 1)]
    for what, values in (("name", [row.name for row in every]), ("folder name", [row.slug for row in every])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice:
            raise UserError(f"{path}: two rows have the {what} {twice!r}")
    rows = [row for row, entry in zip(every, entries, strict=True) if scale in entry.get("scales", SCALES)]
    if not rows:
        raise UserError(f"{path} has no row at the scale {scale}")
    return rows, [row.name for row in every]


def _read_row(
    path: Path, number: int, entry: Any, content: dict, scale: str, scales: list[str], seeds: list[int] | None
) -> Row:
    where = f"{path}: row {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise UserError(f"{where} has no name")
    where = f"{path}: row {entry['name']!r}"
    _refuse_unknown(entry, ROW_ENTRIES, where)
    if "scales" in entry:
        _read_scales(entry, where)
    changes = content.get("scale", {}).get(scale, {})
    _refuse_unknown(changes, SCALE_ENTRIES, f"{path}: [scale.{scale}]")
    # What the scale changes comes after the row's own, so that a row's image size or backbone does not undo it.
    parameters = content.get("parameters", {}) | entry.get("parameters", {}) | changes.get("parameters", {})
    if scale == "mini":
        parameters |= entry.get("mini", {})
    kind = content.get("kind", "accuracy")
    values = _check_parameters(parameters, kind, where)
    stand_in = scale != scales[0]
    for key in ("published", "at_least"):
        _check_values(entry.get(key, {}), f"{where}: {key}")
    if entry.get("published") and not entry.get("source"):
        raise UserError(f"{where}: a published value needs its source")
    ours = [*content.get("ours", []), *entry.get("ours", [])]
    for name in entry.get("ours", []):
        if name not in parameters:
            raise UserError(f"{where}: ours names {name!r}, which the row does not set")
    # What is expected of a run at paper scale says nothing about one at mini scale.
    expected = [changes] if stand_in else [entry, changes, content]
    seed = values.pop("seed", 0)
    declared = _first([changes, entry, content], "seeds", [seed]) if seeds is None else seeds
    return Row(
        name=entry["name"],
        parameters=values,
        kind=kind,
        group=entry.get("group", ""),
        about=entry.get("about", ""),
        seeds=_check_seeds(declared, where),
        ours=tuple(name for name in dict.fromkeys(ours) if name in values and not stand_in),
        hours=_check_number(_first(expected, "hours", None), "hours", where),
        hardware=_first(expected, "hardware", ""),
        heatmaps=_check_number(_first([changes, content], "heatmaps", DEFAULT_HEATMAPS), "heatmaps", where),
        published={} if stand_in else entry.get("published", {}),
        source=entry.get("source", ""),
        tolerance=entry.get("tolerance", DEFAULT_TOLERANCE),
        at_least={} if stand_in else entry.get("at_least", {}),
        stand_in=stand_in,
    )


def _first(entries: list[dict], name: str, default: Any) -> Any:
    """The value of the first entry that has one."""
    return next((entry[name] for entry in entries if name in entry), default)


def _is_number(value: Any, kind: type | tuple = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_number(value: Any, name: str, where: str) -> Any:
    if value is not None and not (_is_number(value) and value >= 0):
        raise UserError(f"{where}: {name} = {value!r} is not a number from 0 on")
    return value


def _check_parameters(parameters: dict, kind: str, where: str) -> dict[str, Any]:
    """The parameters of a row as numbers, texts and truths, or UserError."""
    for name in (*vars(MachineSettings()), "exp_dir", "resume"):
        if name in parameters:
            raise UserError(f"{where}: {name} belongs to the machine, not to a table")
    more = {name: parameters[name] for name in COST_PARAMETERS if kind == "cost" and name in parameters}
    for name, value in more.items():
        if not _is_number(value, int) or value < (0 if name == "steps" else 1):
            raise UserError(f"{where}: {name} = {value!r} is not a whole number")
    named = {name: value for name, value in parameters.items() if name not in more}
    try:
        settings = make_settings(needs_data=kind != "cost", **named)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return {name: more[name] if name in more else getattr(settings, name) for name in parameters}


def _check_seeds(seeds: Any, where: str) -> tuple[int, ...]:
    right = isinstance(seeds, (list, tuple)) and len(seeds) > 0
    if not right or any(not _is_number(seed, int) or seed < 0 for seed in seeds):
        raise UserError(f"{where}: seeds = {seeds!r} is not a list of whole numbers from 0 on")
    return tuple(dict.fromkeys(seeds))


def _read_claims(content: dict, names: list[str], kind: str, path: Path) -> list[dict[str, str]]:
    claims = content.get("claims", [])
    if claims and kind == "cost":
        raise UserError(f"{path}: a cost table has no claims")
    for claim in claims:
        _refuse_unknown(claim, ("better", "than", "metric"), f"{path}: a claim")
        for key in ("better", "than"):
            if claim.get(key) not in names:
                raise UserError(f"{path}: a claim is about {claim.get(key)!r}, which is no row")
        if claim.setdefault("metric", "mAP") not in COLUMNS:
            raise UserError(f"{path}: a claim is about the metric {claim['metric']!r}")
    return claims


def _read_context(content: dict, path: Path) -> list[dict[str, Any]]:
    for entry in content.get("context", []):
        _refuse_unknown(entry, ("method", "backbone", "values", "labels", "source"), f"{path}: a context row")
        where = f"{path}: context row {entry.get('method')!r}"
        _check_values(entry.get("values", {}), where)
        _check_values(entry.get("labels", {}), f"{where}: labels", names=None)
        if not entry.get("source"):
            raise UserError(f"{where} has no source")
    return content.get("context", [])


def _refuse_unknown(entry: dict, known, where: str) -> None:
    for key in entry:
        if key not in known:
            raise UserError(f"{where}: unknown entry {key!r} (known: {', '.join(known)})")


def _check_values(values: Any, where: str, names=COLUMNS) -> None:
    """Refuse what is not name -> fraction; names: the metrics there are, None for names of labels."""
    if not isinstance(values, dict):
        raise UserError(f"{where} is not a list of metrics")
    for name, value in values.items():
        if names is not None and name not in names:
            raise UserError(f"{where}: unknown metric {name!r}")
        if not _is_number(value) or not 0 <= value <= 1:
            raise UserError(f"{where}: {name} = {value!r} is not a fraction in 0..1")
