"""Protects reproduction: runs are executed once for all rows that share them, are skipped, fail alone, go on after a
stop, work side by side; table, report and verification follow; plan, list and Slurm script say what is to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from conftest import ROOT

from sgre_lib import UserError, evaluate_scores, reproduce
from sgre_lib.base.files import write_json
from sgre_lib.base.settings import make_machine
from sgre_lib.commands import main
from sgre_lib.tables import report as report_module
from sgre_lib.tables import reproduce as module
from sgre_lib.tables.declaration import read_table
from sgre_lib.tables.notebooks import COST, EVALUATE, PREPARE, REPORT, TRAIN, NotebookFailed, run_notebook
from sgre_lib.tables.plan import describe_plan, plan_runs
from sgre_lib.tables.results import collect_runs, list_tables
from sgre_lib.tables.run_folder import run_folder
from sgre_lib.tables.slurm import write_slurm
from sgre_lib.tables.verify import verify_table

TABLE = """
title = "Two rows & a title"
heatmaps = 0
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
    """One good and one failing row through papermill, side by side; the report, verification, and a call that finds
    everything done."""
    table, results = write(tmp_path / "pair.toml", small_mini), tmp_path / "results"
    before = dict(os.environ)
    (first,) = reproduce(table, results=results, progress=False, jobs=2)
    assert dict(os.environ) == before  # the share of the machine is the kernels' own
    assert first.failed == ["bad"]
    assert [result.state for result in first.rows] == ["done", "failed"]
    assert "nowhere.npy are missing" in first.rows[1].error
    good, folder = first.rows[0].runs[0].folder, results / "pair"
    about = json.loads((good / "run.json").read_text())
    assert about["parameters"]["pos"] is True
    assert {"started", "ended", "seconds", "code_version", "clean", "versions", "seed", "notebooks"} <= set(about)
    assert about["device"] == f"cpu, {max(1, (os.cpu_count() or 1) // 2)} threads"
    assert len(about["data_fingerprint"]) == 64
    assert all((good / notebook).exists() for notebook in about["notebooks"])
    for suffix in ("csv", "md", "html", "json"):
        assert "good" in (folder / f"table.{suffix}").read_text()
    page = Links()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    assert page.images
    assert all(page.images)
    assert any(link.endswith("03_train.ipynb") for link in page.links)
    assert all((folder / link).exists() for link in page.links)
    assert verify_table(read_table(table), results) == ("pair: 1 runs, every number derived again from the scores", [])

    calls = []
    monkeypatch.setattr(module, "run_notebook", lambda name, *a, **k: calls.append(name))
    stamp = (good / "run.json").stat().st_mtime_ns
    reproduce(table, results=results, only=["good"], progress=False, report=False)
    assert calls == []
    assert (good / "run.json").stat().st_mtime_ns == stamp


@pytest.fixture
def fake(monkeypatch):
    """Notebooks that only leave the files a real one would. `failing` holds (row, notebook) to fail."""
    calls, failing = [], set()

    def run_fake(notebook, output, parameters, **options):
        place = output.parent.name
        row = next((name for name in ("good", "bad") if f"-{name}-" in place), place)
        calls.append((row, notebook, dict(parameters), options.get("environment")))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")
        if (row, notebook) in failing:
            raise NotebookFailed(f"{notebook}: ValueError: planted")
        experiment = output.parent / "experiment"
        if notebook == TRAIN:
            (experiment / "checkpoints").mkdir(parents=True, exist_ok=True)
            (experiment / "checkpoints" / "last.pth").write_bytes(b"")
        if notebook == EVALUATE:
            leave_scores(experiment, seed=len(calls))
        if notebook == COST:
            write_json(parameters["out"], {"parameters": 1000, "gflops": 2.5, "device": "cpu"})
        return output

    monkeypatch.setattr(module, "run_notebook", run_fake)
    monkeypatch.setattr(report_module, "run_notebook", run_fake)
    return calls, failing


def leave_scores(experiment, seed):
    random = np.random.default_rng(seed)
    targets = np.random.default_rng(0).integers(0, 2, (12, 3))
    scores = np.clip(targets * 0.6 + random.random((12, 3)) * 0.5, 0, 1)
    labels = ["cat", "dog", "owl"]
    metrics = evaluate_scores(scores, targets)
    metrics["AP"] = dict(zip(labels, metrics["AP"], strict=True))
    np.save(experiment / "scores.npy", scores)
    np.save(experiment / "targets.npy", targets)
    (experiment / "label.txt").write_text("\n".join(labels))
    write_json(experiment / "result.json", {**metrics, "threshold": 0.5, "topk": 3})


def run(table, tmp_path, **options):
    (result,) = reproduce(table, results=tmp_path / "results", report=False, progress=False, **options)
    return {row.row.slug: row.state for row in result.rows}


def trained(calls) -> list[str]:
    return [row for row, notebook, *_ in calls if notebook == TRAIN]


def outcome(table, tmp_path, **options):
    return collect_runs(read_table(table, **options), tmp_path / "results").rows


def folder_of(table, tmp_path, number=0):
    return run_folder(read_table(table).rows[number].runs[0], tmp_path / "results")


def test_a_report_that_fails_is_said_and_the_table_is_there(tmp_path, fake):
    _, failing = fake
    table = write(tmp_path / "t.toml", tmp_path)
    failing.add(("t", "20_reproduce_tables"))
    (result,) = reproduce(table, results=tmp_path / "results", progress=False)
    assert "planted" in result.report_problem
    assert result.failed == []
    assert (result.folder / "table.csv").exists()


# --- Runs --------------------------------------------------------------------------------------------------------


def test_done_runs_are_skipped_and_changed_ones_are_others(tmp_path, fake):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}
    first = folder_of(table, tmp_path, 1)
    calls.clear()
    run(table, tmp_path)
    assert calls == []
    write(table, tmp_path, bad="lamda = 0.3")
    assert outcome(table, tmp_path)[1].state == "not run"
    run(table, tmp_path)
    assert trained(calls) == ["bad"]
    assert json.loads((first / "run.json").read_text())["parameters"]["lamda"] == 0.2  # still there
    calls.clear()
    write(table, tmp_path, bad="lamda = 0.2")
    run(table, tmp_path)
    assert calls == []  # and found again


def test_force_keeps_what_was_there(tmp_path, fake):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    run(table, tmp_path)
    calls.clear()
    run(table, tmp_path, force=True, only=["good"])
    assert trained(calls) == ["good"]
    folder = folder_of(table, tmp_path)
    assert (folder.with_name(f"{folder.name}.old1") / "run.json").exists()
    assert outcome(table, tmp_path)[0].state == "done"


def test_rows_of_several_tables_share_a_run(tmp_path, fake):
    calls, _ = fake
    first = write(tmp_path / "a.toml", tmp_path, bad="lamda = 0.2")
    second = write(tmp_path / "b.toml", tmp_path, bad="lamda = 0.3")
    second.write_text(second.read_text().replace('name = "good"', 'name = "another name"'))
    assert run(first, tmp_path) == {"good": "done", "bad": "done"}
    assert run(second, tmp_path) == {"another-name": "done", "bad": "done"}
    assert trained(calls) == ["good", "bad", "bad"]
    calls.clear()
    reproduce([first, second], results=tmp_path / "both", report=False, progress=False)
    assert len(trained(calls)) == 3


def test_seeds_are_runs_of_their_own(tmp_path, fake):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    table.write_text("seeds = [0, 1]\n" + table.read_text())
    run(table, tmp_path)
    assert [parameters["seed"] for _, notebook, parameters, _ in calls if notebook == TRAIN] == [0, 1, 0, 1]
    result = outcome(table, tmp_path)[0]
    values = [one.metrics["mAP"] for one in result.runs]
    assert result.metrics["mAP"] == pytest.approx(np.mean(values))
    assert result.spreads["mAP"] == pytest.approx(np.std(values, ddof=1))
    calls.clear()
    assert run(table, tmp_path, seeds=[1, 2]) == {"good": "done", "bad": "done"}
    assert len(trained(calls)) == 2  # seed 1 was there
    content = json.loads((tmp_path / "results" / "t" / "table.json").read_text())
    assert [one["seed"] for one in content["runs"] if one["row"] == "good"] == [1, 2]


def test_a_failed_run_does_not_stop_the_others_and_runs_again(tmp_path, fake):
    calls, failing = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    failing.add(("good", EVALUATE))
    assert run(table, tmp_path) == {"good": "failed", "bad": "done"}
    assert "ValueError: planted" in outcome(table, tmp_path)[0].error
    failing.clear()
    calls.clear()
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}
    assert trained(calls) == ["good"]
    assert calls[0][2]["resume"] is True  # training had ended: its checkpoint is not thrown away


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_goes_on(tmp_path, fake, monkeypatch, jobs):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    original = module.run_notebook

    def interrupted(notebook, output, parameters, **options):
        original(notebook, output, parameters, **options)
        if notebook == EVALUATE:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path, jobs=jobs)
    states = [result.state for result in outcome(table, tmp_path)]
    assert states[0] == "interrupted"  # result.json alone does not make a run done
    assert "done" not in states
    monkeypatch.setattr(module, "run_notebook", original)
    calls.clear()
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}
    assert calls[0][2]["resume"] is True


def test_ctrl_c_is_no_failure_of_the_notebook(tmp_path, fake, monkeypatch):
    """On an interruption the kernels are interrupted; the error that their notebooks then end with is not recorded."""
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    started, interrupted = threading.Event(), threading.Event()

    def train_until_interrupted(notebook, output, parameters, **_):
        started.set()
        assert interrupted.wait(20)
        raise NotebookFailed(f"{notebook}: Stopped: the state is saved")

    monkeypatch.setattr(module, "run_notebook", train_until_interrupted)
    monkeypatch.setattr(module, "interrupt_kernels", interrupted.set)
    threading.Thread(target=lambda: (started.wait(20), time.sleep(0.1), os.kill(os.getpid(), signal.SIGINT))).start()
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(table, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [result.state for result in outcome(table, tmp_path)] == ["interrupted", "not run"]


def test_a_run_that_stored_other_parameters_is_not_done(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    run(table, tmp_path)
    path = folder_of(table, tmp_path) / "run.json"
    content = json.loads(path.read_text())
    content["parameters"]["epochs"] = 2
    path.write_text(json.dumps(content))
    assert outcome(table, tmp_path)[0].state == "interrupted"
    path.write_text("half a fi")
    assert outcome(table, tmp_path)[0].state == "interrupted"


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, fake, capsys):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    folder = folder_of(table, tmp_path)
    folder.mkdir(parents=True)
    code = (
        "import sys, time; from sgre_lib.base.lock import folder_lock\n"
        f"with folder_lock({str(folder)!r}, 'reproduce'): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert other.stdout.readline() == b"held\n"
        assert run(table, tmp_path) == {"good": "not run", "bad": "done"}
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert "t: good: skipped" in capsys.readouterr().out
    assert trained(calls) == ["bad"]
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}


def test_side_by_side_each_has_its_share_of_the_machine(tmp_path, fake, monkeypatch):
    import torch

    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert run(table, tmp_path, jobs=2) == {"good": "done", "bad": "done"}
    assert {environment["OMP_NUM_THREADS"] for *_, environment in calls} == {"4"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    places = module.share_machine(2, make_machine())
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["3", "5"]
    with pytest.raises(UserError, match="--jobs 3 is more than the 2 GPUs"):
        run(table, tmp_path, jobs=3)


def test_the_machine_is_said_to_the_notebooks_and_is_in_no_key(tmp_path, fake, monkeypatch):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    file = tmp_path / "machine.toml"
    file.write_text('device = "cpu"\nnum_workers = 3\ncache = "memory"\n')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "notebooks").mkdir()  # results are kept here
    main(["reproduce", str(table), "--machine", str(file), "--num-workers", "0", "--only", "good"])
    parameters = {notebook: parameters for _, notebook, parameters, _ in calls}
    assert parameters[TRAIN]["machine"] == {"device": "cpu", "num_workers": 0, "cache": "memory"}  # options win
    assert "machine" not in parameters[TRAIN]["more_settings"]
    calls.clear()
    results = tmp_path / "experiments" / "results"
    reproduce(table, results=results, only=["good"], report=False, machine=make_machine(processes=4), progress=False)
    assert calls == []  # done, whatever computed it
    assert main(["reproduce", str(table), "--machine", str(tmp_path / "none.toml")]) == 2
    assert main(["reproduce", str(table), "--num-workers", "-7"]) == 2


def test_runs_of_several_processes_have_as_many_gpus_each(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    places = module.share_machine(2, make_machine(processes=2))
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["0,1", "2,3"]
    with pytest.raises(UserError, match="--jobs 3 is more than the 5 GPUs allow: each run takes 2"):
        module.share_machine(3, make_machine(processes=2))
    on_cpu = module.share_machine(3, make_machine(device="cpu"))
    assert not any("CUDA_VISIBLE_DEVICES" in place for place in on_cpu)


def test_data_that_cannot_be_prepared_fails_its_rows_only(tmp_path, fake):
    _, failing = fake
    table = write(tmp_path / "t.toml", "voc2012", bad=f'data = "{tmp_path}"')
    failing.add(("voc2012", PREPARE))
    assert run(table, tmp_path) == {"good": "failed", "bad": "done"}


def test_cost_rows_run_the_cost_notebook(tmp_path, fake):
    calls, _ = fake
    table = tmp_path / "c.toml"
    table.write_text('kind = "cost"\n[parameters]\nlabel_count = 20\ntau = 2.0\n[[rows]]\nname = "good"\n')
    assert run(table, tmp_path) == {"good": "done"}
    (_, notebook, parameters, _), *others = calls
    assert not others
    assert (notebook, parameters["label_count"], parameters["more_settings"]) == (COST, 20, {"tau": 2.0, "seed": 0})
    assert outcome(table, tmp_path)[0].metrics == {"parameters": 1000, "gflops": 2.5}
    assert verify_table(read_table(table), tmp_path / "results")[1] == []


# --- Table and report --------------------------------------------------------------------------------------------


def test_a_published_value_typed_in_later_reaches_the_report(tmp_path, fake, monkeypatch):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    made = []

    def run_notebook(notebook, output, parameters, **_):
        made.append(read_table(parameters["table"], parameters["scale"]).rows[0].published)
        nbformat.write(nbformat.v4.new_notebook(), output)

    monkeypatch.setattr(report_module, "run_notebook", run_notebook)
    for _ in range(2):
        reproduce(table, results=tmp_path / "results", progress=False)
    assert len(made) == 1
    text = table.read_text().replace('name = "good"', 'name = "good"\npublished = { mAP = 0.9 }\nsource = "the paper"')
    table.write_text(text)
    before = (tmp_path / "results" / "t" / "report.html").stat().st_mtime_ns
    reproduce(table, results=tmp_path / "results", progress=False)
    assert made[1] == {"mAP": 0.9}
    assert (tmp_path / "results" / "t" / "report.html").stat().st_mtime_ns > before


def test_a_tables_json_leads_to_every_run(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    table.write_text(table.read_text() + '[[claims]]\nbetter = "good"\nthan = "bad"\n')
    run(table, tmp_path)
    results = tmp_path / "results"
    content = json.loads((results / "t" / "table.json").read_text())
    assert {one["row"] for one in content["runs"]} == {one["row"] for one in content["values"]} == {"good", "bad"}
    for one in content["runs"]:
        assert json.loads((results / one["folder"] / "run.json").read_text())["metrics"]["mAP"] == one["mAP"]
    (claim,) = content["claims"]
    assert claim["low"] <= claim["difference"] <= claim["high"]


def test_verify_finds_what_was_changed(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    run(table, tmp_path)
    declared, results = read_table(table), tmp_path / "results"
    folder = folder_of(table, tmp_path)
    assert verify_table(declared, results)[1] == []

    def differences(path, change):
        kept = path.read_bytes()
        change(path)
        found = verify_table(declared, results)[1]
        path.write_bytes(kept)
        assert verify_table(declared, results)[1] == []
        return "\n".join(found)

    def raise_map(path):
        content = json.loads(path.read_text())
        (content if "mAP" in content else content["metrics"])["mAP"] += 1e-6
        path.write_text(json.dumps(content))

    assert "result.json: mAP is" in differences(folder / "experiment" / "result.json", raise_map)
    said = differences(folder / "run.json", raise_map)
    assert "run.json: mAP is" in said
    assert "table.csv: good: mAP" in said
    scores = np.load(folder / "experiment" / "scores.npy")
    other = differences(folder / "experiment" / "scores.npy", lambda path: np.save(path, 1 - scores))
    assert "AP of: cat" in other
    assert "resamples.npy" in other
    assert "cannot be derived again" in differences(
        folder / "experiment" / "targets.npy", lambda path: np.save(path, np.zeros((2, 2)))
    )


# --- Plan --------------------------------------------------------------------------------------------------------


def test_dry_run_says_what_would_run_and_writes_nothing(tmp_path, fake, monkeypatch, capsys):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    table.write_text("hours = 3\nhardware = 'one GPU'\nseeds = [0, 1]\n" + table.read_text())
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", str(table), "--dry-run", "--only", "good"]) == 0
    text = capsys.readouterr().out
    assert "t: good, seed 1" in text
    assert "bad" not in text
    assert text.strip().endswith("2 runs, 6.0 h")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.toml"]
    run(table, tmp_path)
    assert describe_plan(plan_runs([read_table(table)], tmp_path / "results")) == "nothing to run"


def test_slurm_script_runs_one_run_a_task(tmp_path, fake, monkeypatch):
    calls, _ = fake
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    table.write_text("hours = 3\nhardware = 'one GPU'\n" + table.read_text())
    plan = plan_runs([read_table(table)], tmp_path / "results")
    script = write_slurm(plan, tmp_path / "jobs.sh", jobs=4)
    text = script.read_text()
    assert "#SBATCH --array=0-1%4" in text
    assert "#SBATCH --time=6:00:00" in text
    assert f"sgre reproduce {table} --scale paper" in text.splitlines()[-1]
    assert "#SBATCH --gpus-per-task=1" in text
    several = write_slurm(plan, tmp_path / "several.sh", machine=make_machine(processes=4, num_workers=5)).read_text()
    assert "#SBATCH --gpus-per-task=4" in several
    assert "#SBATCH --cpus-per-task=24" in several  # a process and its five loaders, four times
    assert several.split("--only-run")[1].splitlines()[0] == ' "$key" --processes 4 --num-workers 5'
    (tmp_path / "sgre").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')  # says what it was called with
    (tmp_path / "sgre").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
    said = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert said == ["reproduce", str(table), "--scale", "paper", "--seeds", "0", "--only-run", plan[1].run.key]
    reproduce(table, results=tmp_path / "results", runs=[plan[1].run.key], progress=False)
    assert trained(calls) == ["bad"]
    assert not (tmp_path / "results" / "t").exists()  # tables are made when all tasks have ended


def test_bad_requests(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    with pytest.raises(UserError, match="--only nobody: no such row"):
        run(table, tmp_path, only=["nobody"])
    with pytest.raises(UserError, match="--only-run 12345678: no such run"):
        run(table, tmp_path, runs=["12345678"])
    with pytest.raises(UserError, match="--jobs 0"):
        run(table, tmp_path, jobs=0)
    with pytest.raises(UserError, match="no table 'voc'"):
        reproduce("voc", results=tmp_path, progress=False)
    assert not (tmp_path / "results").exists()
    assert main(["reproduce", str(table), "--seeds", "0;1"]) == 2
    assert main(["reproduce", str(table), "--list", "--verify"]) == 2


def test_unknown_notebook_parameters_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no parameter 'epoch'"):
        run_notebook(REPORT, tmp_path / "x.ipynb", {"epoch": 1}, progress=False)


def test_list_shows_states(tmp_path):
    text = list_tables(["mini"], results=tmp_path)
    assert "SGRE without its object branch" in text
    assert "0 of 4 rows done" in text
    everything = list_tables(results=tmp_path)
    for table in ("ablations", "cost", "mscoco", "nuswide", "vg500", "voc2007"):
        assert table in everything
    assert "h to go on one A100" in everything


def test_a_table_waits_for_the_process_that_writes_it(tmp_path, fake):
    table = write(tmp_path / "t.toml", tmp_path, bad="lamda = 0.2")
    folder = tmp_path / "results" / "t"
    folder.mkdir(parents=True)
    code = (
        "import time; from sgre_lib.base.lock import folder_lock\n"
        f"with folder_lock({str(folder)!r}, 'reproduce'): print('held', flush=True); time.sleep(2)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout.readline() == b"held\n"
    assert run(table, tmp_path) == {"good": "done", "bad": "done"}
    assert other.wait() == 0
    other.stdout.close()
    assert (folder / "table.csv").exists()
