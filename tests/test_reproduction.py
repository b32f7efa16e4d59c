"""Protects reproduction: rows run, are skipped, go stale, fail alone, go on after a stop; table and report follow."""

from __future__ import annotations

import json
import os
import time
from html.parser import HTMLParser

import pytest

from sgre_lib import UserError, reproduce
from sgre_lib import reproduction as module
from sgre_lib.reproduction import EVALUATE, REPORT, TRAIN, NotebookFailed, list_tables, row_result, table_results
from sgre_lib.tables import COLUMNS, read_table

TABLE = """
title = "Two rows & a title"
[parameters]
data = "{data}"
arch = "test_resnet"
pretrained = false
image_size = 64
output_stride = 16
embed_type = "minilm"
epochs = 1
batch_size = 8
[[rows]]
name = "good"
parameters = {{ pos = true }}
[[rows]]
name = "bad"
parameters = {{ {bad} }}
"""


def write(path, data, bad='embed_type = "nowhere.npy"'):
    path.write_text(TABLE.format(data=data, bad=bad))
    return path


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.images = [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a" and not values.get("href", "#").startswith("#"):
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values.get("alt"))


def test_for_real(small_mini, tmp_path, monkeypatch):
    """One good and one failing row through papermill, the report, and a second call that runs nothing again."""
    table, results = write(tmp_path / "pair.toml", small_mini), tmp_path / "results"
    (first,) = reproduce(table, results=results, progress=False)
    assert first.failed == ["bad"]
    assert [result.state for result in first.rows] == ["done", "failed"]
    assert "nowhere.npy are missing" in first.rows[1].error
    folder = results / "pair"
    row = json.loads((folder / "good" / "row.json").read_text())
    assert row["parameters"]["pos"] is True
    assert {"started", "seconds", "code_version", "versions", "data_fingerprint", "device"} <= set(row)
    assert (folder / "good" / "03_train.ipynb").exists()
    for suffix in ("csv", "md", "html", "json"):
        assert "good" in (folder / f"table.{suffix}").read_text()
    page = Links()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    assert page.images
    assert all(page.images)
    assert page.links
    assert all((folder / link).exists() for link in page.links)

    calls = []
    original = module.run_notebook
    monkeypatch.setattr(module, "run_notebook", lambda name, *a, **k: calls.append(name) or original(name, *a, **k))
    before = (folder / "good" / "row.json").stat().st_mtime_ns
    reproduce(table, results=results, only=["good"], progress=False)
    assert calls == []
    assert (folder / "good" / "row.json").stat().st_mtime_ns == before


@pytest.fixture
def fake(monkeypatch):
    """Notebooks that only leave the files a real one would. `failing` holds (row folder, notebook) to fail."""
    calls, failing = [], set()

    def run_notebook(notebook, output, parameters, **_):
        row = output.parent.name
        calls.append((row, notebook, dict(parameters)))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")
        if (row, notebook) in failing:
            raise NotebookFailed(f"{notebook}: ValueError: planted")
        experiment = output.parent / "experiment"
        if notebook == TRAIN:
            (experiment / "checkpoints").mkdir(parents=True, exist_ok=True)
            (experiment / "checkpoints" / "last.pth").write_bytes(b"")
        if notebook == EVALUATE:
            (experiment / "result.json").write_text(json.dumps(dict.fromkeys(COLUMNS, 0.5)))
        return output

    monkeypatch.setattr(module, "run_notebook", run_notebook)
    return calls, failing


def run(table, tmp_path, **options):
    (result,) = reproduce(table, results=tmp_path / "results", report=False, progress=False, **options)
    return {row.row.slug: row.state for row in result.rows}


def trained(calls) -> list[str]:
    return [row for row, notebook, _ in calls if notebook == TRAIN]


def test_done_rows_are_skipped_and_stale_ones_kept_aside(tmp_path, fake):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}
    calls.clear()
    run(table, tmp_path)
    assert calls == []
    write(table, tmp_path, bad="lamda = 0.3")
    assert row_result(read_table(table), read_table(table).rows[1], tmp_path / "results").state == "stale"
    run(table, tmp_path)
    assert trained(calls) == ["bad"]
    old = tmp_path / "results" / "t" / "bad.old1"
    assert json.loads((old / "row.json").read_text())["parameters"]["lamda"] == 0.2
    calls.clear()
    run(table, tmp_path, force=True, only=["good"])
    assert trained(calls) == ["good"]
    assert (tmp_path / "results" / "t" / "good.old1" / "row.json").exists()


def test_a_failed_row_does_not_stop_the_others_and_runs_again(tmp_path, fake):
    calls, failing = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    failing.add(("good", EVALUATE))
    assert run(table, tmp_path) == {"good": "failed", "bad": "done"}
    result = table_results(read_table(table), tmp_path / "results")[0]
    assert "ValueError: planted" in result.error
    failing.clear()
    calls.clear()
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}
    assert trained(calls) == ["good"]
    assert calls[0][2]["resume"] is True  # training had ended: its checkpoint is not thrown away


def test_an_interrupted_row_goes_on(tmp_path, fake, monkeypatch):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    original = module.run_notebook

    def interrupted(notebook, output, parameters, **options):
        original(notebook, output, parameters, **options)
        if notebook == EVALUATE:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path)
    states = [result.state for result in table_results(read_table(table), tmp_path / "results")]
    assert states == ["interrupted", "not run"]  # result.json alone does not make a row done
    monkeypatch.setattr(module, "run_notebook", original)
    calls.clear()
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}
    assert calls[0][2]["resume"] is True


def test_a_row_that_stored_other_parameters_is_not_done(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    run(table, tmp_path)
    row = tmp_path / "results" / "t" / "good" / "row.json"
    content = json.loads(row.read_text())
    content["parameters"]["epochs"] = 2
    row.write_text(json.dumps(content))
    assert table_results(read_table(table), tmp_path / "results")[0].state == "interrupted"
    row.write_text("half a fi")
    assert table_results(read_table(table), tmp_path / "results")[0].state == "interrupted"


def test_a_published_value_typed_in_later_reaches_the_report(tmp_path, fake, monkeypatch):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    made = []

    def make_report(declared, root):
        made.append(declared.rows[0].published)
        (root / declared.name / "report.html").write_text("x")

    monkeypatch.setattr(module, "make_report", make_report)
    for _ in range(2):
        reproduce(table, results=tmp_path / "results", progress=False)
    assert len(made) == 1
    text = table.read_text().replace('name = "good"', 'name = "good"\npublished = { mAP = 0.9 }\nsource = "the paper"')
    table.write_text(text)
    os.utime(table, (time.time() + 5,) * 2)
    reproduce(table, results=tmp_path / "results", progress=False)
    assert made[1] == {"mAP": 0.9}


def test_rows_side_by_side(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    assert run(table, tmp_path, jobs=2) == {"good": "done", "bad": "done"}


def test_data_that_cannot_be_prepared_fails_its_rows_only(tmp_path, fake, monkeypatch):
    _, failing = fake
    table = write(tmp_path / "t.toml", "voc2012", bad=f'data = "{tmp_path}"')
    failing.add(("t", module.PREPARE))
    assert run(table, tmp_path) == {"good": "failed", "bad": "done"}


def test_bad_requests(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    with pytest.raises(UserError, match="--only nobody: no such row"):
        run(table, tmp_path, only=["nobody"])
    with pytest.raises(UserError, match="--jobs 0"):
        run(table, tmp_path, jobs=0)
    with pytest.raises(UserError, match="no table 'voc'"):
        reproduce("voc", results=tmp_path, progress=False)


def test_unknown_notebook_parameters_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no parameter 'epoch'"):
        module.run_notebook(REPORT, tmp_path / "x.ipynb", {"epoch": 1}, progress=False)


def test_list_shows_states():
    text = list_tables(["mini"])
    assert "SGRE without its object branch" in text
    assert "of 4 rows done" in text
