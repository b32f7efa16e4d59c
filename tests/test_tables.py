"""Protects table files and verdicts: what is declared, what is refused, and how values become a table."""

from __future__ import annotations

import csv
import io

import pytest
from conftest import ROOT

from sgre_lib import UserError
from sgre_lib.tables import RowResult, format_csv, format_html, format_markdown, judge_claims, judge_row, read_table

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


def test_rows_take_the_tables_parameters(write):
    table = read_table(write(TEXT))
    assert table.rows[0].parameters == {"data": "mini", "lr": 9e-5, "lamda": 0.4}
    assert table.rows[0].slug == "a-b"
    assert table.rows[1].parameters == {"data": "mini", "lr": 9e-5}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lamda = 0.4", "lambda = 0.4", r"row 'A & B': unknown setting 'lambda': did you mean 'lamda'"),
        ("lr = 9e-5", "lr = 0", "--lr 0.0 must be above 0"),
        ('data = "mini"', 'data = "mini"\nexp_dir = "x"', "exp_dir belongs to the machine"),
        ("mAP = 0.90", "mAP = 90", "mAP = 90 is not a fraction"),
        ("mAP = 0.90", "MAP = 0.9", "unknown metric 'MAP'"),
        ('source = "the paper, table 2"', "", "needs its source"),
        ('name = "plain"', 'name = "A & B"', "two rows have the name"),
        ('name = "plain"', 'name = "a + b"', "two rows have the folder name 'a-b'"),
        ('than = "plain"', 'than = "nobody"', "'nobody', which is no row"),
        ('title = "T"', 'titel = "T"', "unknown entry 'titel'"),
        ('title = "T"', "title = ", "is not TOML"),
    ],
)
def test_mistakes_name_file_and_entry(write, old, new, message):
    with pytest.raises(UserError, match=message) as error:
        read_table(write(TEXT.replace(old, new)))
    assert "t.toml" in str(error.value)


def test_mini_scale_changes_come_last(write):
    scaled = TEXT + "\n[scale.mini.parameters]\nlamda = 0.2\nepochs = 1\n"
    assert read_table(write(scaled), "paper").rows[0].parameters["lamda"] == 0.4
    mini = read_table(write(scaled), "mini")
    assert mini.rows[0].parameters["lamda"] == 0.2
    assert mini.name == "t-mini"  # kept apart from the paper's results


def results(table, first=None, second=None):
    values = [first, second]
    return [
        RowResult(row, "done" if value is not None else "not run", {"mAP": value} if value is not None else {})
        for row, value in zip(table.rows, values, strict=True)
    ]


def test_verdicts(write):
    table = read_table(write(TEXT))
    assert judge_row(results(table, 0.897)[0]).startswith("mAP reproduced")
    assert judge_row(results(table, 0.88)[0]).startswith("mAP below published by 2.0")
    assert judge_row(results(table, 0.95)[0]).startswith("mAP above published by 5.0")
    assert judge_row(results(table, None, 0.6)[1]) == "mAP reaches 50.0"
    assert judge_row(results(table, None, 0.4)[1]) == "mAP misses 50.0"
    assert judge_row(RowResult(table.rows[0], "failed", error="why")) == "failed: why"
    assert judge_claims(table, results(table, 0.9, 0.8))[0][1] is True
    assert judge_claims(table, results(table, 0.8, 0.8))[0][1] is False
    assert judge_claims(table, results(table, 0.8))[0][1] is None


def test_the_table_in_three_formats(write):
    table = read_table(write(TEXT))
    outcome = results(table, 0.895, 0.6)
    rows = list(csv.DictReader(io.StringIO(format_csv(outcome))))
    assert float(rows[0]["mAP_gap"]) == pytest.approx(-0.005)
    assert rows[1]["mAP_published"] == ""
    text = format_markdown(table, outcome)
    assert "| A & B | 90.0 | 89.5 | -0.5 | mAP reproduced" in text
    assert "| plain | not on file | 60.0 | - | mAP reaches 50.0 |" in text
    assert "| ML-GCN; source: ML-GCN README | 83.0 |" in text
    html = format_html(table, outcome)
    assert '<th scope="row">A &amp; B</th>' in html
    assert html.count("<tr>") == 3 + 4


def test_our_own_tables_are_sound():
    for path in sorted((ROOT / "experiments" / "tables").glob("*.toml")):
        assert read_table(path).rows
