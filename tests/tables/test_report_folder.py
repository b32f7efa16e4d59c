"""Protects the report: every number leads to its run, all links and pictures are inside, nothing needs a network."""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from conftest import run_sgre

from sgre_lib import UserError, build_report
from sgre_lib.base.files import write_json
from sgre_lib.evaluation.intervals import COLUMNS, resample_metrics
from sgre_lib.figures import draw_history, save_figure
from sgre_lib.tables.declaration import Row, Run, read_table
from sgre_lib.tables.judge import RowResult
from sgre_lib.tables.presentation import LOCALISATION, find_gflops
from sgre_lib.tables.run_folder import RunResult
from sgre_lib.training.history import write_history

ODD = 'Größe <b>50 %</b> & "q" $x_$'
TABLE = """
title = 'Odd <i>signs</i> & "quotes", 100 %'
about = "A table <script>alert(1)</script> of tests."
baseline = "plain"
scales = ["mini"]
hours = 0.5
hardware = "2 CPU cores"
[parameters]
data = "mini"
epochs = 2
[[rows]]
name = 'ODD'
group = "first & <b>group"
seeds = [0, 1]
parameters = { lamda = 0.4 }
published = { mAP = 0.8 }
source = "nobody, nowhere"
[[rows]]
name = "plain"
group = "second"
parameters = { model = "gap" }
[[rows]]
name = "broken"
group = "second"
parameters = { tau = 2.0 }
[[rows]]
name = "later"
group = "second"
parameters = { tau = 3.0 }
[[claims]]
better = 'ODD'
than = "plain"
[[claims]]
better = 'ODD'
than = "later"
[[context]]
method = "Others <2>"
values = { mAP = 0.9 }
labels = { "a <cat>" = 0.9, dog = 0.8 }
source = "their report"
""".replace("ODD", ODD)


def make_run(run, results: Path, quality: float | None) -> None:
    """Write what `reproduce` leaves of a run: done with scores of this quality, or (None) failed."""
    folder = results / "runs" / run.name
    (folder / "experiment").mkdir(parents=True)
    write_json(folder / "declared.json", {"kind": run.kind, "parameters": run.parameters})
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    output = nbformat.v4.new_output("stream", text=f"trained {run.seed} <b>\n")
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Train <x>"),
        nbformat.v4.new_code_cell("print(1)", outputs=[output], metadata={"tags": ["parameters"]}),
    ]
    nbformat.write(notebook, folder / "03_train.ipynb")
    if quality is None:
        write_json(folder / "failed.json", {"parameters": run.parameters, "error": "03_train: <Error> & co"})
        return
    generator = np.random.default_rng(run.seed)
    targets = (np.arange(60)[:, None] % [2, 3] == 0).astype(np.int8)
    scores = quality * targets + generator.random(targets.shape)
    resamples = resample_metrics(scores, targets)
    for name, array in (("scores", scores), ("targets", targets)):
        np.save(folder / "experiment" / f"{name}.npy", array)
    np.save(folder / "resamples.npy", resamples)
    metrics = dict(zip(COLUMNS, resamples.mean(0).tolist(), strict=True))
    history = [
        {"epoch": n, "train_loss": 9.0 - n, "lr": 0.1, "mAP": 0.5, "ema_mAP": 0.5 + n / 10, "seconds": 1.0}
        for n in (1, 2)
    ]
    write_history(folder / "experiment", history)
    save_figure(draw_history(history), folder / "experiment" / "history.png", dpi=60)
    write_json(folder / "experiment" / "result.json", metrics)
    found = {name: 0.4 for name in LOCALISATION}
    labels = {name: found | {"pointing": 0.2 * quality} for name in ("a <cat>", "dog")}
    write_json(
        folder / "experiment" / "localisation.json", {"labels": labels, "mean_over_labels": found, "map": "alignment"}
    )
    (folder / "experiment" / "config.yaml").write_text("lamda: 0.4\n", encoding="utf-8")
    about = {"labels": {"a <cat>": 0.7, "dog": 0.6}, "started": "2026-01-01T00:00:00+00:00", "seconds": 61.0,
             "code_version": "abc", "clean": True, "versions": {"torch": "2"}, "device": "cpu"}  # fmt: skip
    write_json(folder / "run.json", {"parameters": run.parameters, "seed": run.seed, "metrics": metrics, **about})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report's folder, the table's file, and the results that it was made from."""
    root = tmp_path_factory.mktemp("report ü %41")
    path, results, out = root / "odd täble.toml", root / "results", root / "report of ü"
    path.write_text(TABLE, encoding="utf-8")
    odd, plain, broken, _ = read_table(path, "mini").rows
    for row, quality in ((odd, 0.9), (plain, 0.3), (broken, None)):
        for run in row.runs:
            make_run(run, results, quality)
    (results / "runs" / broken.runs[0].name / "04_evaluate.ipynb").write_text('{"half', encoding="utf-8")
    build_report(out, tables=path, results=results, progress=False)
    return out, path, results


@pytest.fixture(scope="module")
def pages(made) -> dict[Path, BeautifulSoup]:
    return {
        page: BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser") for page in sorted(made[0].rglob("*.html"))
    }


def test_links_resolve_and_nothing_comes_from_elsewhere(made, pages):
    assert len(pages) == 1 + 1 + 4  # start, table, notebooks of the runs that have begun, but the half one
    for page, soup in pages.items():
        assert not soup.find_all(["script", "iframe", "object", "embed"])
        for tag in soup.find_all(["a", "img", "link"]):
            address = tag.get("href") or tag.get("src")
            if address.startswith("data:"):
                continue
            assert not re.match(r"[a-z]+:|/", address), f"{page.name}: {address}"
            file, _, anchor = address.partition("#")
            target = (page.parent / unquote(file)).resolve() if file else page
            assert target.is_file(), f"{page.name}: {address}"
            assert target.is_relative_to(made[0].resolve())
            assert not anchor or pages[target].find(id=anchor), f"{page.name}: {address}"


def test_every_page_can_be_read_aloud(pages):
    for page, soup in pages.items():
        assert soup.html["lang"] == "en", page
        assert soup.title.get_text(strip=True)
        assert len(soup.find_all("h1")) == 1
        levels = [int(tag.name[1]) for tag in soup.find_all(re.compile("^h[1-6]$"))]
        assert all(after <= before + 1 for before, after in pairwise(levels)), page
        ids = [tag["id"] for tag in soup.find_all(id=True)]
        assert len(ids) == len(set(ids)), page
        assert soup.find(class_="skip")["href"] == "#content"
        for table in soup.find_all("table"):
            assert table.caption.get_text(strip=True), page
            assert all(header.get("scope") for header in table.find_all("th"))
        for image in soup.find_all("img"):
            assert len(image["alt"]) > 20
            assert image["width"].isdigit()
            assert image["src"].startswith("data:")  # nothing moves when it is loaded


def table_of(made, pages) -> tuple[Path, BeautifulSoup]:
    page = made[0] / "tables" / "odd täble.html"
    return page, pages[page]


def find_table(soup: BeautifulSoup, caption: str):
    return next(table for table in soup.find_all("table") if caption in table.caption.text)


def test_every_number_of_ours_leads_to_its_run_and_notebook(made, pages):
    page, soup = table_of(made, pages)
    metrics = find_table(soup, "All metrics")
    lines = {line.th.get_text(): line for line in metrics.find_all("tr") if line.td}
    addresses = {cell.a["href"] for cell in lines["plain"].find_all("td")}
    assert len(addresses) == 1
    run = (page.parent / addresses.pop()).resolve()
    assert "trained 0" in pages[run].get_text()
    trail = [link["href"] for link in pages[run].find("nav").find_all("a")]
    assert trail == ["../../index.html", f"../../tables/{quote('odd täble')}.html#runs-plain"]
    seeds = {cell.a["href"] for cell in lines[ODD].find_all("td")}  # several seeds: the list of its runs
    heading = soup.find(id=seeds.pop()[1:]).find_parent("tr")
    shown = [line.th.get_text() for line in heading.find_next_siblings("tr")[:2]]
    assert shown == ["seed 0", "seed 1"]
    assert all(line.a["href"].startswith("../runs/") for line in heading.find_next_siblings("tr")[:2])
    assert not lines["later"].find("a")
    assert "90.0" in lines["Others <2>; source: their report"].get_text()
    labels = find_table(soup, "AP of each label").tbody.find_all("tr")
    assert all(cell.a for line in labels for cell in line.find_all("td")[:2])
    runs = find_table(soup, "The runs behind each row")
    names = [link.get_text() for link in runs.find_all("a")]
    assert {"03_train", "run", "result", "history", "config", "localisation"} <= set(names)


def test_states_and_odd_names_stand_there_as_they_are(made, pages):
    index = pages[made[0] / "index.html"].get_text()
    assert "2 of 4 rows done, 1 failed, 1 not run" in index
    assert 'Odd <i>signs</i> & "quotes", 100 %' in index
    assert "sgre reproduce" in index
    assert len((made[0] / "all_tables.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4 * len(COLUMNS)
    table = table_of(made, pages)[1].get_text()
    assert ODD in table
    assert "03_train: <Error> & co" in table
    assert "<script>alert(1)</script>" in table
    assert "not measured" in table


def test_the_difference_stands_beside_rows_that_print_alike(made, pages):
    rows = find_table(table_of(made, pages)[1], "mAP of each row")
    header = [cell.get_text() for cell in rows.thead.find_all("th")]
    plain = next(line for line in rows.find_all("tr") if line.th.get_text() == "plain")
    cell = plain.find_all(["th", "td"])[header.index(f"{ODD} is better by (95 % interval)")].get_text()
    assert re.fullmatch(r"\+\d+\.\d \(\+\d+\.\d to \+\d+\.\d\)", cell)


def test_no_page_says_anything_twice_or_nothing(made, pages):
    """Parameters are shown once, and sections that a table has nothing for are left out."""
    soup = table_of(made, pages)[1]
    assert [one.get_text() for one in soup.find_all("summary")].count("Parameters") == 1
    headings = [heading.get_text() for heading in soup.find_all("h2")]
    assert {"Result", "Claims", "What the rows are", "Where every number comes from"} <= set(headings)
    assert not {"Cost", "Which rules", "Where the labels look", "What is still to run"} & set(headings)


def test_a_second_build_writes_nothing_and_a_change_only_its_pages(made):
    out, path, results = made
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.name != ".lock"}
    build_report(out, tables=path, results=results, progress=False)
    after = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.name != ".lock"}
    assert after == before
    run = read_table(path, "mini").rows[1].runs[0]
    about = results / "runs" / run.name / "run.json"
    content = json.loads(about.read_text(encoding="utf-8"))
    write_json(about, content | {"device": "another device"})
    build_report(out, tables=path, results=results, progress=False)
    changed = {file.relative_to(out).as_posix() for file in before if file.stat().st_mtime_ns != before[file]}
    assert {f"runs/{run.name}/run.json", "tables/odd täble.html"} <= changed
    assert not [name for name in changed if name.endswith("03_train.html") or "broken" in name]
    assert "another device" in (out / "tables" / "odd täble.html").read_text(encoding="utf-8")


def test_an_interrupted_build_leaves_the_old_page(made, monkeypatch, tmp_path):
    out, _, results = made
    copy, stored = tmp_path / "report", tmp_path / "results"
    shutil.copytree(out, copy)
    shutil.copytree(results, stored)
    old = (copy / "index.html").read_text(encoding="utf-8")
    changed = tmp_path / "odd täble.toml"
    changed.write_text(TABLE.replace("A table", "Another"), encoding="utf-8")

    def stop(notebook, output, *_, **__):
        output.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sgre_lib.tables.report.run_notebook", stop)
        with pytest.raises(KeyboardInterrupt):
            build_report(copy, tables=changed, results=stored, progress=False)
    assert (copy / "index.html").read_text(encoding="utf-8") == old
    build_report(copy, tables=changed, results=stored, progress=False)
    assert "Another" in (copy / "tables" / "odd täble.html").read_text(encoding="utf-8")


def test_mistakes_are_refused_before_anything_is_written(tmp_path):
    file, other, out = tmp_path / "file", tmp_path / "other", tmp_path / "out"
    file.write_text("mine", encoding="utf-8")
    other.mkdir()
    (other / "index.html").write_text("mine", encoding="utf-8")
    for options, words in (
        ({"out": file}, "is a file"),
        ({"out": other}, "something else than a report"),
        ({"out": file / "below"}, "cannot be made"),
        ({"out": out, "tables": "nowhere"}, "no table 'nowhere'"),
        ({"out": out, "tables": "mini", "scale": "paper"}, "no scale"),
        ({"out": out, "scale": "huge"}, "choose from"),
    ):
        with pytest.raises(UserError, match=words):
            build_report(results=tmp_path / "none", progress=False, **options)
    assert not out.exists()
    assert (other / "index.html").read_text(encoding="utf-8") == "mine"
    done = run_sgre("report", "nowhere", "--out", out)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_figures_of_a_table_say_what_they_find(made, pages):
    soup = table_of(made, pages)[1]
    sections = {image.find_previous("h2").get_text(): image["alt"] for image in soup.find_all("img")}
    assert sections.keys() == {"Label by label", "Heatmaps measured by boxes"}  # groups of one have nothing to compare
    assert ODD in sections["Heatmaps measured by boxes"]
    assert "Others <2>" in sections["Label by label"]


def test_operations_come_from_a_cost_run_of_the_same_model():
    row = Row("a", {"data": "mini", "arch": "resnet18", "lr": 0.1})
    run = Run("accuracy", row.parameters | {"seed": 0}, "a")
    result = RowResult(row, [RunResult(run, "done", labels={"cat": 1.0, "dog": 1.0})])
    costs = [
        {"parameters": {"arch": "resnet18", "label_count": 3}, "metrics": {"gflops": 3.0}},
        {"parameters": {"arch": "resnet18", "label_count": 2, "batch_size": 1}, "metrics": {"gflops": 2.0}},
    ]
    assert find_gflops(result, costs) == 2.0
    assert find_gflops(result, costs[:1]) is None


def test_without_any_run_the_report_says_so(tmp_path):
    index = build_report(tmp_path / "out", tables="voc2007", scale="paper", results=tmp_path / "none", progress=False)
    said = " ".join(BeautifulSoup(index.read_text(encoding="utf-8"), "html.parser").get_text().split())
    assert "Paper scale" in said
    assert "Mini scale" not in said  # not asked for
    assert "published value not on file" in said
    assert "sgre reproduce voc2007 --scale paper" in said


# --- In a browser --------------------------------------------------------------------------------------------------

PROBE = """<!doctype html><title>probe</title><body><script>
const found = [];
const wait = (frame) => new Promise(done => { frame.onload = done; });
(async () => {
  for (const page of PAGES) for (const width of [360, 1200]) {
    const frame = document.createElement("iframe");
    frame.width = width; frame.height = 800; frame.src = page;
    const loaded = wait(frame); document.body.append(frame); await loaded;
    const root = frame.contentDocument.documentElement;
    const fetched = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name);
    const broken = [...frame.contentDocument.images].filter(image => !image.naturalWidth).length;
    found.push({page, width, over: root.scrollWidth - root.clientWidth, broken,
                outside: fetched.filter(name => !name.startsWith(location.origin) && !name.startsWith("data:"))});
    frame.remove();
  }
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
})();
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_in_a_browser_nothing_scrolls_sideways_or_fails(made, tmp_path):
    out, statuses = tmp_path / "site", []
    shutil.copytree(made[0], out)
    names = sorted(page.relative_to(out).as_posix() for page in out.rglob("*.html"))
    (out / "probe.html").write_text(PROBE.replace("PAGES", json.dumps(names)), encoding="utf-8")

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            statuses.append((self.path, int(code)))

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(out)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--timeout=20000", "--virtual-time-budget=20000", "--dump-dom",
            f"http://127.0.0.1:{server.server_port}/probe.html",
        ]  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, timeout=90)
    finally:
        server.shutdown()
    found = json.loads(html.unescape(re.search("FOUND(.*)END", shown.stdout)[1]))
    assert len(found) == 2 * len(names)
    wrong = [entry for entry in found if entry["over"] > 0 or entry["broken"] or entry["outside"]]
    assert not wrong
    assert all(code < 400 for path, code in statuses if path != "/favicon.ico"), statuses
    said = [line for line in shown.stderr.splitlines() if "CONSOLE" in line and "favicon" not in line]
    assert not said
