"""Table files: what is to be run, what was published, and what the table claims.

How one is written stands in `experiments/README.md`; `table.schema.json` says of every entry what it may be, and this
module what no schema can say: names that refer to rows, settings, and what a scale changes.
"""

import functools
import json
import re
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.files import fingerprint, read_toml
from ..base.settings import MachineSettings, TrainSettings, make_settings

SCALES = ("paper", "mini")

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


@dataclass(frozen=True)
class Run:
    """One set of parameters with one seed: what is executed, once, for all rows that ask for it.

    kind: a table's. parameters: settings as declared, with `seed`. slug: of the row that asks.
    """

    kind: str
    parameters: dict[str, Any]
    slug: str
    hours: float | None = None
    heatmaps: int = 9

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
    """One line of a table. parameters: complete with the table's, without the seed. Other fields: as in the file.

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
    heatmaps: int = 9
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""
    tolerance: float = 0.005  # half a point of mAP, within what reruns by others differ
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
    content = _read_entries(path, {} if seeds is None else {"seeds": seeds})
    scales, kind = content.get("scales", SCALES), content.get("kind", "accuracy")
    if scale not in scales:
        if len(scales) > 1:
            raise UserError(f"{path} has no scale {scale!r}, only {', '.join(scales)}")
        scale = scales[0]
    # A row that is left out of this scale is checked all the same, so that claims about it are known to be right.
    every = [_read_row(path, entry, content, scale, scale != scales[0], seeds) for entry in content["rows"]]
    for what, values in (("name", [row.name for row in every]), ("folder name", [row.slug for row in every])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice:
            raise UserError(f"{path}: two rows have the {what} {twice!r}")
    rows = [row for row, entry in zip(every, content["rows"], strict=True) if scale in entry.get("scales", SCALES)]
    if not rows:
        raise UserError(f"{path} has no row at the scale {scale}")
    claims, baseline = [{"metric": "mAP"} | claim for claim in content.get("claims", [])], content.get("baseline")
    if claims and kind == "cost":
        raise UserError(f"{path}: a cost table has no claims")
    named = [("a claim is about", claim[side]) for claim in claims for side in ("better", "than")]
    for what, name in [*named, *([("the baseline is", baseline)] if baseline else [])]:
        if name not in [row.name for row in every]:
            raise UserError(f"{path}: {what} {name!r}, which is no row")
    here = {row.name for row in rows}
    title, about, stand_in = content.get("title", path.stem), content.get("about", "").strip(), scale != scales[0]
    return Table(
        name=path.stem + (f"-{scale}" if stand_in else ""),
        path=path,
        title=f"{title}, at mini scale" if stand_in else title,
        about=f"{STAND_IN[kind]} {about}" if stand_in else about,
        scale=scale,
        rows=rows,
        claims=[claim for claim in claims if {claim["better"], claim["than"]} <= here],
        context=[] if stand_in else content.get("context", []),
        baseline=baseline if baseline in here else None,
        kind=kind,
        scales=tuple(scales),
    )


def table_scales(path: str | Path) -> list[str]:
    """The scales that a table file has, its own first."""
    return list(_read_entries(path, {}).get("scales", SCALES))


def _read_row(path: Path, entry: dict, content: dict, scale: str, stand_in: bool, seeds: list[int] | None) -> Row:
    where, kind = f"{path}: row {entry['name']!r}", content.get("kind", "accuracy")
    changes = content.get("scale", {}).get(scale, {})
    # What the scale changes comes after the row's own, so that a row's image size or backbone does not undo it.
    parameters = content.get("parameters", {}) | entry.get("parameters", {}) | changes.get("parameters", {})
    if scale == "mini":
        parameters |= entry.get("mini", {})
    values = _check_parameters(parameters, kind, where)
    for name in entry.get("ours", []):
        if name not in parameters:
            raise UserError(f"{where}: ours names {name!r}, which the row does not set")
    ours = dict.fromkeys([*content.get("ours", []), *entry.get("ours", [])])
    seed, declared = values.pop("seed", 0), ChainMap(changes, entry, content)
    # What is expected of a run at paper scale says nothing about one at mini scale, nor does what was published.
    expected = changes if stand_in else ChainMap(entry, changes, content)
    kept = ["group", "about", "source", "tolerance", *([] if stand_in else ["published", "at_least"])]
    return Row(
        name=entry["name"],
        parameters=values,
        kind=kind,
        seeds=tuple(dict.fromkeys(declared.get("seeds", [seed]) if seeds is None else seeds)),
        ours=tuple(name for name in ours if name in values and not stand_in),
        hours=expected.get("hours"),
        hardware=expected.get("hardware", ""),
        heatmaps=declared.get("heatmaps", Row.heatmaps),
        stand_in=stand_in,
        **{name: entry[name] for name in kept if name in entry},
    )


def _check_parameters(parameters: dict, kind: str, where: str) -> dict[str, Any]:
    """The parameters of a row as numbers, texts and truths, or UserError."""
    for name in (*vars(MachineSettings()), "exp_dir", "resume"):
        if name in parameters:
            raise UserError(f"{where}: {name} belongs to the machine, not to a table")
    more = {name: parameters[name] for name in COST_PARAMETERS if kind == "cost" and name in parameters}
    named = {name: value for name, value in parameters.items() if name not in more}
    try:
        settings = make_settings(needs_data=kind != "cost", **named)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return {name: more[name] if name in more else getattr(settings, name) for name in parameters}


def _read_entries(path: str | Path, changes: dict[str, Any]) -> dict[str, Any]:
    """What a table file says, with changes. UserError where that is not what `table.schema.json` allows."""
    from fastjsonschema import JsonSchemaValueException

    content = read_toml(path, "table file") | changes
    try:
        return _schema_check()(content)
    except JsonSchemaValueException as error:
        raise UserError(f"{path}: {_describe_mistake(error, content)}") from None


@functools.cache
def _schema_check() -> Callable[[dict], dict]:
    import fastjsonschema

    text = Path(__file__).with_name("table.schema.json").read_text(encoding="utf-8")
    return fastjsonschema.compile(json.loads(text), use_default=False)


def _describe_mistake(error: Any, content: dict[str, Any]) -> str:
    """fastjsonschema's error with the name of its row: `row 'SGRE': published: mAP: 90 is not a fraction in 0..1`."""
    places, value, known = error.path[1:], error.value, error.definition.get("properties", {})
    if len(places) > 1 and places[0] in ("rows", "claims", "context"):
        kind, number, *inner = places
        entry = content[kind][int(number)]
        named = (entry.get("name") or entry.get("method")) if isinstance(entry, dict) else None
        word = {"rows": "row", "claims": "claim", "context": "context row"}[kind]
        places = [f"{word} {named or int(number) + 1!r}", *inner]
    elif len(places) > 1 and places[0] == "scale":
        places[:2] = [f"[scale.{places[1]}]"]
    if error.rule == "additionalProperties":
        unknown = next(name for name in value if name not in known)
        said = f"unknown entry {unknown!r} (known: {', '.join(known)})"
    elif error.rule == "required":
        said = f"{' and '.join(name for name in error.rule_definition if name not in value)} missing"
    elif error.rule == "dependencies":
        said = "a published value needs its source"
    else:
        said = f"{value!r} is not {error.definition['title']}"
    return ": ".join([*(place for place in places if not place.isdigit()), said])
