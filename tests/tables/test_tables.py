"""Protects table files and verdicts: what is declared, what is refused, scales kept apart, which rows share a run, and
how values become verdicts, claims and tables without more digits than the evidence has."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from sgre_lib import UserError, read_results
from sgre_lib.base.files import fingerprint
from sgre_lib.evaluation.intervals import COLUMNS
from sgre_lib.tables import declaration
from sgre_lib.tables.declaration import Run, read_table, table_scales
from sgre_lib.tables.formats import describe_choices, format_csv, format_html, format_markdown, result_cells
from sgre_lib.tables.judge import RowResult, format_metric, judge_row
from sgre_lib.tables.results import VALUE_COLUMNS, TableResult
from sgre_lib.tables.run_folder import RunResult

TEXT = """
title = "T"
[parameters]
data = "mini"
lr = 9e-5
[[rows]]
name = "A & B"
parameters = { lamda = 0.4 }
published = { mAP = 0.90, CF1 = 0.80 }
source = "the paper, table 2"
[[rows]]
name = "plain"
at_least = { mAP = 0.5 }
[[claims]]
better = "A & B"
than = "plain"
[[context]]
method = "ML-GCN"
values = { mAP = 0.83 }
source = "ML-GCN README"
"""


@pytest.fixture
def write(tmp_path):
    def write_table(text):
        (tmp_path / "t.toml").write_text(text)
        return tmp_path / "t.toml"

    return write_table


# --- Declarations ------------------------------------------------------------------------------------------------


def test_rows_take_the_tables_parameters(write):
    table = read_table(write(TEXT))
    assert table.rows[0].parameters == {"data": "mini", "lr": 9e-5, "lamda": 0.4}
    assert table.rows[0].slug == "a-b"
    assert table.rows[1].parameters == {"data": "mini", "lr": 9e-5}
    assert [run.parameters["seed"] for run in table.rows[1].runs] == [0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lamda = 0.4", "lambda = 0.4", r"row 'A & B': unknown setting 'lambda': did you mean 'lamda'"),
        ("lr = 9e-5", "lr = 0", "--lr 0.0 must be above 0"),
        ('data = "mini"', 'data = "mini"\nexp_dir = "x"', "exp_dir belongs to the machine"),
        ("mAP = 0.90", "mAP = 90", "published: mAP: 90 is not a fraction"),
        ("mAP = 0.90", "MAP = 0.9", r"published: unknown entry 'MAP' \(known: mAP, CP,"),
        ('source = "the paper, table 2"', "", "needs its source"),
        ('name = "plain"', 'name = "A & B"', "two rows have the name"),
        ('name = "plain"', 'name = "a + b"', "two rows have the folder name 'a-b'"),
        ('than = "plain"', 'than = "nobody"', "'nobody', which is no row"),
        ('title = "T"', 'titel = "T"', "unknown entry 'titel'"),
        ('title = "T"', "title = ", "is not TOML"),
        ('title = "T"', 'kind = "speed"', "kind: 'speed' is not one of accuracy, cost"),
        ('title = "T"', 'kind = "cost"', "a cost table has no claims"),
        ('title = "T"', "seeds = [0, -1]", "seeds: -1 is not a whole number from 0 on"),
        ('title = "T"', 'hours = "7"', "hours: '7' is not a number"),
        ('title = "T"', "scale.mini.epochs = 3", r"\[scale.mini\]: unknown entry 'epochs'"),
        ('name = "plain"', 'name = "plain"\nours = ["tau"]', "ours names 'tau', which the row does not set"),
        (
            'name = "plain"',
            'name = "plain"\nscales = ["small"]',
            "row 'plain': scales: 'small' is not one of paper, mini",
        ),
        ("values = { mAP = 0.83 }", "labels = { cat = 83 }", "context row 'ML-GCN': labels: cat: 83 is not a fraction"),
        ('name = "plain"', "", "row 2: name missing"),
        ('better = "A & B"', "", "claim 1: better missing"),
        ('title = "T"', "seeds = [1.0]", "seeds: 1.0 is not a whole number"),
        ('title = "T"', 'baseline = "nobody"', "the baseline is 'nobody', which is no row"),
    ],
)
def test_mistakes_name_file_and_entry(write, old, new, message):
    text = TEXT.replace(old, new)
    with pytest.raises(UserError, match=message) as error:
        read_table(write(text), "mini" if "scale" in new else "paper")
    assert "t.toml" in str(error.value)


def test_no_table_without_rows(write):
    with pytest.raises(UserError, match=r"t\.toml: rows missing"):
        read_table(write('title = "T"'))
    with pytest.raises(UserError, match="seeds: -1 is not a whole number"):  # given, not declared
        read_table(write(TEXT), seeds=[-1])


def test_the_schema_knows_the_metrics():
    known = json.loads(Path(declaration.__file__).with_name("table.schema.json").read_text())["definitions"]
    assert tuple(known["metric"]["enum"]) == tuple(known["metrics"]["properties"]) == COLUMNS
    assert set(known["parameters"]["properties"]) == set(declaration.COST_PARAMETERS)


def test_mini_scale_changes_come_last(write):
    scaled = TEXT + "\n[scale.mini.parameters]\nlamda = 0.2\nepochs = 1\n"
    assert read_table(write(scaled), "paper").rows[0].parameters["lamda"] == 0.4
    mini = read_table(write(scaled), "mini")
    assert mini.rows[0].parameters["lamda"] == 0.2
    assert mini.name == "t-mini"  # kept apart from the paper's results
    own = scaled.replace('name = "A & B"', 'name = "A & B"\nmini = { lamda = 0.3 }')
    assert read_table(write(own), "mini").rows[0].parameters["lamda"] == 0.3
    assert read_table(write(own), "paper").rows[0].parameters["lamda"] == 0.4


def test_what_is_published_is_not_held_against_mini(write):
    mini = read_table(write(TEXT), "mini")
    assert mini.context == []
    assert mini.rows[0].published == {}
    assert mini.rows[1].at_least == {}
    assert "reproduced" not in judge_row(results(mini, 0.9)[0])
    assert "nothing is published for mini" in judge_row(results(mini, 0.9)[0])
    only = read_table(write(TEXT.replace('title = "T"', 'scales = ["mini"]')), "paper")
    assert (only.scale, only.name) == ("mini", "t")  # mini is its real dataset
    assert only.rows[0].published["mAP"] == 0.9


def test_a_row_can_be_left_out_of_a_scale(write):
    text = TEXT.replace('name = "plain"', 'name = "plain"\nscales = ["paper"]') + "[scale.mini]\nheatmaps = 0\n"
    assert table_scales(write(text)) == ["paper", "mini"]
    assert len(read_table(write(text), "paper").claims) == 1
    mini = read_table(write(text), "mini")
    assert [row.name for row in mini.rows] == ["A & B"]
    assert mini.claims == []
    assert mini.rows[0].heatmaps == 0


def test_seeds_hours_and_choices(write):
    text = TEXT.replace('title = "T"', 'title = "T"\nseeds = [0, 1]\nhours = 7\nhardware = "one GPU"\nours = ["lr"]')
    text = text.replace('name = "plain"', 'name = "plain"\nseeds = [5]\nhours = 2') + "[scale.mini]\nhours = 0.1\n"
    table = read_table(write(text))
    assert [row.seeds for row in table.rows] == [(0, 1), (5,)]
    assert [run.hours for row in table.rows for run in row.runs] == [7, 7, 2]
    assert table.rows[1].hardware == "one GPU"
    assert describe_choices(found(table)) == ["ours, not published, in A & B, plain: lr = 9e-05"]
    mini = read_table(write(text), "mini")
    assert [row.hours for row in mini.rows] == [0.1, 0.1]
    assert mini.rows[1].hardware == ""  # the GPU is what the paper's rows need
    assert [row.seeds for row in read_table(write(text), seeds=[3]).rows] == [(3,), (3,)]


def test_equal_parameters_are_one_run(write):
    def key(**parameters):
        return Run("accuracy", {"data": "mini", "seed": 0, **parameters}, "row").key

    assert key() == key(tau=1.0, lr=1e-4)  # defaults written out
    # Runs that were stored when these were the defaults are still found.
    assert key(lr=9e-5, batch_size=128, lamda=0.1) == fingerprint(["accuracy", "data='mini'"])[:8]
    assert key(lamda=0.4, lr=1e-3) == key(lr=1e-3, lamda=0.4)
    different = [key(), key(tau=2.0), key(seed=1), key(data="voc2007"), key(epochs=6)]
    different.append(Run("cost", {"data": "mini", "seed": 0}, "row").key)
    assert len(set(different)) == len(different)
    row = read_table(write(TEXT)).rows[0]
    assert row.runs[0].name == f"mini-a-b-s0-{row.runs[0].key}"


def test_a_cost_row_needs_no_data(write):
    text = 'kind = "cost"\n[parameters]\nlabel_count = 20\nsteps = 0\n[[rows]]\nname = "r"\n'
    assert read_table(write(text)).rows[0].parameters == {"label_count": 20, "steps": 0}
    with pytest.raises(UserError, match="parameters: label_count: 0 is not a whole number"):
        read_table(write(text.replace("20", "0")))


# --- Results -----------------------------------------------------------------------------------------------------


NOWHERE = Path("results")


def found(table, *values, folder=None, **options) -> TableResult:
    """The table with `results`."""
    return TableResult(table, results(table, *values, folder=folder, **options), folder or NOWHERE)


def results(table, first=None, second=None, folder=None, error=0.001):
    """Rows with the mAP of each seed (a number: of one). folder: store targets and resamples that scatter by error."""
    made = []
    for number, (row, value) in enumerate(zip(table.rows, (first, second), strict=True)):
        values = [value] if np.isscalar(value) or value is None else value
        runs = []
        for seed, one in enumerate(values):
            run = Run("accuracy", row.parameters | {"seed": seed}, row.slug)
            place = (folder or NOWHERE) / f"{number}-{seed}"
            if folder:
                (place / "experiment").mkdir(parents=True)
                np.save(place / "experiment" / "targets.npy", np.eye(4))
            if one is None:
                runs.append(RunResult(run, "not run", place))
                continue
            noise = np.random.default_rng(number).normal(0, error, (500, len(COLUMNS)))
            resamples = (one + noise).astype(np.float32) if folder else None
            runs.append(RunResult(run, "done", place, {"mAP": one}, {"cat": one}, resamples))
        made.append(RowResult(row, runs))
    return made


def test_verdicts(write):
    table = read_table(write(TEXT))
    assert judge_row(results(table, 0.897)[0]).startswith("mAP reproduced")
    assert judge_row(results(table, 0.88)[0]).startswith("mAP below published by 2.0")
    assert judge_row(results(table, 0.95)[0]).startswith("mAP above published by 5.0")
    assert judge_row(results(table, None, 0.6)[1]) == "mAP reaches 50.0"
    assert judge_row(results(table, None, 0.4)[1]) == "mAP misses 50.0"
    failed = RunResult(table.rows[0].runs[0], "failed", error="why")
    assert judge_row(RowResult(table.rows[0], [failed])) == "failed: why"
    assert judge_row(results(table, [0.9, None])[0]) == "partly done (1 of 2 seeds)"


def test_claims_go_as_far_as_the_evidence(write, tmp_path):
    table = read_table(write(TEXT))

    def claim(name, *values, **options):
        return found(table, *values, folder=tmp_path / name, **options).claims.iloc[0]

    assert claim("clear", 0.9, 0.8).verdict == "holds"
    assert claim("other", 0.8, 0.9).verdict == "does not hold"
    unsure = claim("unsure", 0.81, 0.8, error=0.02)
    assert unsure.verdict == "not decided"
    assert unsure.low < 0 < unsure.high
    assert "cannot be told from" in unsure.sentence
    assert "+1.0 points, 95 % interval" in unsure.sentence
    # Seeds that disagree take away what the images alone would show.
    assert claim("seeds", [0.9, 0.8, 0.85], 0.84).verdict == "not decided"
    assert claim("half", 0.9).verdict == "not measured"
    assert found(table, 0.9, 0.8).claims.verdict[0] == "not decided"  # no scores are stored
    apart = found(table, 0.9, 0.8, folder=tmp_path / "apart")
    np.save(tmp_path / "apart" / "1-0" / "experiment" / "targets.npy", np.ones((4, 4)))
    assert "no scores of the same test images" in apart.claims.sentence[0]


def test_no_more_digits_than_the_evidence_has(write, tmp_path):
    table = read_table(write(TEXT))

    def shown(name, value, error=0.001):
        return format_metric(results(table, value, folder=tmp_path / name, error=error)[0], "mAP")

    assert shown("sure", 0.9372) == "93.7"
    assert shown("unsure", 0.9372, error=0.006) == "94"
    assert shown("seeds", [0.936, 0.938]) == "93.7 ± 0.1"
    assert shown("scattered", [0.90, 0.96]) == "93 ± 4"
    assert shown("hardly", [0.9370, 0.9371], error=0.006) == "94 ± 1"  # never less than the last digit
    assert format_metric(results(table, 0.9372)[0], "mAP") == "93.7"
    assert format_metric(results(table)[0], "mAP") == "-"


def test_the_table_in_three_formats(write):
    table = read_table(write(TEXT))
    outcome = found(table, 0.895, 0.6)
    rows = list(csv.DictReader(io.StringIO(format_csv(outcome))))
    assert float(rows[0]["mAP_gap"]) == pytest.approx(-0.005)
    assert rows[1]["mAP_published"] == ""
    text = format_markdown(outcome)
    assert "| A & B | 90.0 | 89.5 | -0.5 | mAP reproduced" in text
    assert "| plain | not on file | 60.0 | - | mAP reaches 50.0 |" in text
    assert "| ML-GCN; source: ML-GCN README | 83.0 |" in text
    html = format_html(outcome)
    assert '<th scope="row">A &amp; B</th>' in html
    assert html.count("<tr>") == 3 + 4


def test_what_says_nothing_in_a_table_is_left_out(write, tmp_path):
    """Published values are no column where nothing is published; differences are one where they can be computed."""
    mini = read_table(write(TEXT), "mini")
    header, lines = result_cells(found(mini, 0.93, 0.9, folder=tmp_path / "a"))
    assert header == ["method", "mAP", "A & B is better by (95 % interval)"]
    assert lines[1][:2] == ["plain", "90.0"]
    assert lines[1][2].startswith("+3.0 (+2.")
    assert result_cells(found(mini, 0.93))[0] == ["method", "mAP"]  # nothing to compare
    paper = result_cells(found(read_table(write(TEXT)), 0.93, 0.9))
    assert paper[0] == ["method", "mAP published", "mAP ours", "gap", "verdict"]
    text = TEXT.replace('than = "plain"', 'than = "plain"').replace('better = "A & B"', 'better = "plain"')
    text = text.replace('than = "plain"', 'than = "A & B"')
    assert found(read_table(write(text)), 0.9, 0.8).reference.row.name == "plain"  # what claims call better


def test_results_as_data(write, tmp_path):
    table = read_table(write(TEXT))
    outcome = found(table, [0.90, 0.92], 0.85, folder=tmp_path / "runs")
    values = outcome.values
    assert list(values.columns) == list(VALUE_COLUMNS)
    assert list(values.row) == ["A & B"] * len(COLUMNS) + ["plain"] * len(COLUMNS)
    first = values.iloc[0]
    assert (first.metric, first.state, first.seeds, first.link) == ("mAP", "done", 2, "0-0")
    assert (first.value, first.gap) == (pytest.approx(0.91), pytest.approx(0.01))
    assert first.deviation == pytest.approx(np.std([0.90, 0.92], ddof=1))
    assert first.low < 0.91 < first.high
    assert values[values.row == "plain"].published.isna().all()
    assert list(outcome.runs.seed) == [0, 1, 0]
    assert outcome.labels.loc["cat"].tolist() == [pytest.approx(0.91), 0.85]
    (difference,) = outcome.differences().itertuples()
    assert (difference.better, difference.than, difference.verdict) == ("A & B", "plain", "holds")
    assert difference.low < difference.difference < difference.high
    assert outcome.claims.verdict.tolist() == ["holds"]


def test_read_results_finds_a_table_by_name(tmp_path):
    frame = read_results("mini", results=tmp_path)
    assert frame.state.unique().tolist() == ["not run"]
    assert frame.value.isna().all()
    assert frame.link.isna().all()
    assert set(read_results("cost", scale="mini", results=tmp_path).metric) >= {"gflops", "parameters"}


def test_seeds_in_csv_are_at_full_precision(write):
    row = next(csv.DictReader(io.StringIO(format_csv(found(read_table(write(TEXT)), [0.1, 0.2], 0.3)))))
    assert float(row["mAP"]) == pytest.approx(0.15, abs=1e-15)
    assert float(row["mAP_std"]) == pytest.approx(np.std([0.1, 0.2], ddof=1), abs=1e-15)
    assert row["seeds"] == "0 1"


def test_groups_and_labels(write):
    text = TEXT.replace('name = "plain"', 'name = "plain"\ngroup = "the rest"')
    text = text.replace("values = { mAP = 0.83 }", "values = { mAP = 0.83 }\nlabels = { cat = 0.5 }")
    table = read_table(write(text))
    markdown = format_markdown(found(table, 0.9, 0.8))
    assert markdown.index("| A & B |") < markdown.index("| **the rest** |") < markdown.index("| plain |")
    assert "| cat | 90.0 | 80.0 | 50.0 |" in markdown
    assert '<th scope="rowgroup">the rest</th>' in format_html(found(table, 0.9, 0.8))


def test_cost_tables_have_cost_columns(write):
    table = read_table(write('kind = "cost"\n[[rows]]\nname = "r"\n'))
    run = table.rows[0].runs[0]
    metrics = {"parameters": 105.75e6, "gflops": 83.8}
    done = RunResult(run, "done", NOWHERE / "run", metrics=metrics, about={"device": "cpu"})
    outcome = TableResult(table, [RowResult(table.rows[0], [done])], NOWHERE)
    markdown = format_markdown(outcome)
    assert "| r | 105.8 | - | - | 83.80 |" in markdown
    assert "mAP" not in markdown
    assert "parameters" in format_csv(outcome).splitlines()[0]


# --- Our own tables ----------------------------------------------------------------------------------------------

OURS = sorted((ROOT / "experiments" / "tables").glob("*.toml"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_own_tables_are_sound(path):
    for scale in table_scales(path):
        table = read_table(path, scale)
        assert table.about
        for row in table.rows:
            assert row.hours is not None, row.name
            assert row.hardware
            if scale == "mini" and table.kind == "accuracy":
                assert row.parameters["data"] == "mini"
                assert row.parameters["epochs"] <= 6
    assert json.dumps(read_table(path).context)


def test_the_published_commands_are_as_published():
    common = {"model": "mlic", "arch": "resnet101", "loss": "asl", "batch_size": 128, "lr": 9e-5, "pos": True}
    published = {"voc2007": (0.1, 0.9983), "mscoco": (0.4, 0.9997), "nuswide": (0.05, 0.9997)}
    for name, (lamda, decay) in published.items():
        row = read_table(ROOT / "experiments" / "tables" / f"{name}.toml").rows[0]
        assert row.parameters == {"data": name, **common, "lamda": lamda, "ema_decay": decay}
        assert row.ours == ()
        assert row.published == {}  # not on file
    vg500 = read_table(ROOT / "experiments" / "tables" / "vg500.toml").rows[0]
    assert {"lamda", "lr", "batch_size", "ema_decay"} <= set(vg500.ours)


def test_ablations_share_the_published_run():
    tables = {name: read_table(ROOT / "experiments" / "tables" / f"{name}.toml") for name in ("ablations", "voc2007")}
    base = [run.key for run in tables["voc2007"].rows[0].runs]
    same = [row.name for row in tables["ablations"].rows if [run.key for run in row.runs] == base]
    assert {"SGRE", "BERT", "lambda 0.1", "tau 1", "ASL", "EMA", "448 pixels", "1 encoder layer"} <= set(same)
    different = {run.key for row in tables["ablations"].rows for run in row.runs}
    assert len(different) == 3 * (len(tables["ablations"].rows) - len(same) + 1)
