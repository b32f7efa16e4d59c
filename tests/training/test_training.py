"""Protects training: the files of an experiment, resume to the bit, several processes, the recipe, what is refused."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TINY, run_sgre, train_words

from sgre_lib import UserError, build_model, load_experiment, read_history, train
from sgre_lib.base.errors import NonFiniteLoss, Stopped
from sgre_lib.images.sampler import TrainingBatches
from sgre_lib.model.checkpoints import read_checkpoint
from sgre_lib.training.history import HISTORY_COLUMNS
from sgre_lib.training.loop import Trainer


def options(small_mini, **changes):
    return {"data": str(small_mini), "embed_type": "random", "pos": True, **TINY, **changes}


def test_experiment_folder(experiment, small_mini):
    present = {path.relative_to(experiment).as_posix() for path in experiment.rglob("*") if path.is_file()}
    assert {"config.yaml", "train.log", "history.csv", "checkpoints/best_ema_model.pth", "checkpoints/last.pth",
            "label.txt", "label_embeddings.npy"} <= present  # fmt: skip
    with open(experiment / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2"]
    config = yaml.safe_load((experiment / "config.yaml").read_text())
    assert config["lr"] == TINY["lr"]
    assert config["derived"]["steps_an_epoch"] == 6  # 44 images, 8 a step, the partial batch included
    model, settings, labels = load_experiment(experiment)
    assert not model.training
    assert settings.pos
    assert len(labels) == 16


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(small_mini, tmp_path):
    runs = [
        train(**options(small_mini, exp_dir=str(tmp_path / name), seed=seed, epochs=1, augment="full"), progress=False)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    losses = [run.history[0]["train_loss"] for run in runs]
    assert losses[0] == losses[1] != losses[2]


class StopAt(Trainer):
    """A trainer that is asked to stop, as by SIGTERM, after some steps."""

    after = 0

    def step(self, *arguments):
        type(self).after -= 1
        if type(self).after == 0:
            self.stopping.asked = True
        return super().step(*arguments)


@pytest.mark.parametrize("after", [2, 6, 9])
def test_resume_is_bit_identical(small_mini, tmp_path, monkeypatch, after):
    """Stopped within the first epoch, at its end, and within the second: weights end as if never stopped."""
    whole = train(**options(small_mini, exp_dir=str(tmp_path / "whole")), progress=False)
    monkeypatch.setattr("sgre_lib.training.train.Trainer", StopAt)
    monkeypatch.setattr(StopAt, "after", after)
    with pytest.raises(Stopped, match="--resume"):
        train(**options(small_mini, exp_dir=str(tmp_path / "cut")), progress=False)
    resumed = train(data=str(small_mini), exp_dir=str(tmp_path / "cut"), resume=True, progress=False)
    for key in ("model", "average", "optimizer"):
        a, b = (read_checkpoint(run.exp_dir / "checkpoints/last.pth")[key] for run in (whole, resumed))
        flat_a, flat_b = torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b)
        assert all(
            torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(flat_a, flat_b, strict=True)
        ), key
    columns = ("epoch", "train_loss", "lr", "mAP", "ema_mAP")
    assert [[row[c] for c in columns] for row in whole.history] == [
        [row[c] for c in columns] for row in resumed.history
    ]


def test_sigterm_saves_and_resume_goes_on(small_mini, tmp_path):
    words = train_words(**options(small_mini, exp_dir=str(tmp_path / "exp"), epochs=500))
    command = [sys.executable, "-m", "sgre_lib", *words]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "exp" / "history.csv"
    for _ in range(600):
        if history.exists():
            break
        time.sleep(0.1)
    second = run_sgre("train", "--data", small_mini, "--exp-dir", tmp_path / "exp", "--resume")
    assert second.returncode == 2
    assert "is in use by process" in second.stderr
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "--resume" in errors.splitlines()[-1]
    done = len(read_history(tmp_path / "exp"))
    state = read_checkpoint(tmp_path / "exp" / "checkpoints" / "last.pth")
    assert state["epoch"] == done + 1


def test_resume_needs_nothing_but_the_folder(small_mini, data_root, tmp_path):
    """`sgre train --resume --exp-dir DIR` alone, also where the run was begun with a data root and a device."""
    exp_dir = tmp_path / "exp"
    first = options(small_mini, exp_dir=str(exp_dir), epochs=1, data_root=str(data_root), device="cpu")
    train(**first, progress=False)
    done = run_sgre("train", "--resume", "--exp-dir", exp_dir)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((exp_dir / "config.yaml").read_text())
    machine = config["machine"]
    assert (machine["data_root"], machine["device"], machine["num_workers"]) == (str(data_root), "cpu", 0)


def test_resume_notices_changed_data(small_mini, data_root, tmp_path):
    copy = tmp_path / "mini"
    shutil.copytree(small_mini, copy)
    train(**options(copy, exp_dir=str(tmp_path / "exp"), epochs=1, data_root=str(data_root)), progress=False)
    lines = (copy / "train.txt").read_text().splitlines()
    (copy / "train.txt").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="have changed since"):
        train(resume=True, exp_dir=str(tmp_path / "exp"), progress=False)


def test_a_signal_to_the_whole_group_lets_the_trainer_save(small_mini, tmp_path):
    """Terminals and launchers signal the loading processes too; the trainer must not die of their death."""
    words = train_words(**options(small_mini, exp_dir=str(tmp_path / "exp"), epochs=500, num_workers=1))
    command = [sys.executable, "-m", "sgre_lib", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for _ in range(600):
        if (tmp_path / "exp" / "history.csv").exists():
            break
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "--resume" in errors.splitlines()[-1]


def test_resume_right_after_a_kill(small_mini, tmp_path):
    """SIGKILL leaves no time to clean up: loaders linger, but neither they nor a lock keep the next run out."""
    # From the shell too: this process may compute with another number of threads, and then in another order.
    whole = train_words(**options(small_mini, exp_dir=str(tmp_path / "whole"), epochs=4))
    assert run_sgre(*whole).returncode == 0
    words = train_words(**options(small_mini, exp_dir=str(tmp_path / "exp"), epochs=4, num_workers=1))
    command = [sys.executable, "-m", "sgre_lib", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (tmp_path / "exp" / "history.csv").exists():
            break
        time.sleep(0.05)
    child.kill()
    child.wait()
    done = run_sgre("train", "--resume", "--exp-dir", tmp_path / "exp")
    assert done.returncode == 0, done.stderr
    a, b = (read_checkpoint(folder / "checkpoints/last.pth") for folder in (tmp_path / "whole", tmp_path / "exp"))
    assert all(torch.equal(a["average"][key], b["average"][key]) for key in a["average"])


def test_synchronised_batch_norms_keep_their_activation():
    """timm's batch norms may carry an activation, which PyTorch's own converter would drop."""
    from sgre_lib.training.processes import convert_sync_batchnorm

    model = build_model({"arch": "tf_efficientnet_lite0", "image_size": 64}, False, label_count=3)
    keys = list(model.state_dict())
    before = sum(type(module).__name__ == "BatchNormAct2d" for module in model.modules())
    model = convert_sync_batchnorm(model)
    assert before > 0
    assert sum(type(module).__name__ == "SyncBatchNormAct" for module in model.modules()) == before
    assert list(model.state_dict()) == keys


def train_with_a_broken_photo(small_mini, data_root, tmp_path, **changes) -> subprocess.CompletedProcess:
    """`sgre train` on a copy of the dataset whose last training photo is no picture."""
    copy = tmp_path / "mini"
    shutil.copytree(small_mini, copy)
    (copy / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    with open(copy / "train.txt", "a") as file:
        file.write("broken.jpg\tsun\n")
    words = train_words(**options(copy, data_root=str(data_root), exp_dir=str(tmp_path / "exp"), **changes))
    return run_sgre(*words)


def test_a_mistake_found_by_one_of_several_processes_is_one_line(small_mini, data_root, tmp_path):
    done = train_with_a_broken_photo(small_mini, data_root, tmp_path, processes=2)
    assert done.returncode == 2
    assert "broken.jpg cannot be read" in done.stderr.strip().splitlines()[-1]


def test_two_processes_score_like_one_and_share_the_batch(small_mini, tmp_path):
    """Started from a function call, as from a notebook cell. Batch norms differ on a CPU, so the loss only nearly."""
    one = train(**options(small_mini, exp_dir=str(tmp_path / "one"), epochs=1), progress=False)
    two = train(**options(small_mini, exp_dir=str(tmp_path / "two"), epochs=1, processes=2), progress=False)
    assert two.history[0]["train_loss"] == pytest.approx(one.history[0]["train_loss"], rel=0.15)
    derived = yaml.safe_load((two.exp_dir / "config.yaml").read_text())["derived"]
    assert (derived["processes"], derived["batch_a_process"]) == (2, 4)
    from sgre_lib import evaluate

    metrics = evaluate(two.exp_dir, num_workers=0, progress=False)
    assert metrics["mAP"] == pytest.approx(two.history[0]["ema_mAP"], abs=1e-6)


def test_shares_of_a_batch():
    """Every image once an epoch over all processes; a process without a share is told so."""
    for count, size, world in ((44, 8, 2), (9, 4, 4), (5, 4, 3)):
        seen: list[int] = []
        for rank in range(world):
            batches = TrainingBatches(count, size, 0, rank, world)
            batches.set_epoch(3)
            for number, keys in enumerate(batches):
                assert all(epoch == 3 for epoch, _ in keys)
                seen += [index for _, index in keys[: batches.share(number)]]
                assert len(keys) == max(1, batches.share(number))
        assert sorted(seen) == list(range(count))
    first, second = TrainingBatches(44, 8, 0), TrainingBatches(44, 8, 0)
    second.set_epoch(1, 4)
    assert list(first)[4:] == list(second)


@pytest.mark.parametrize("branches", ["patch", "object"])
def test_branches_and_baseline_train(small_mini, tmp_path, branches):
    result = train(**options(small_mini, branches=branches, exp_dir=str(tmp_path / branches), epochs=1), progress=False)
    assert np.isfinite(result.history[0]["train_loss"])


def test_pooling_baseline_and_bce(small_mini, tmp_path):
    result = train(
        **options(small_mini, model="gap", loss="bce", exp_dir=str(tmp_path / "gap"), epochs=1), progress=False
    )
    model, _, _ = load_experiment(result.exp_dir)
    assert model.head.classifier.out_features == 16


def test_amp_on_a_cpu(small_mini, tmp_path):
    result = train(**options(small_mini, amp=True, exp_dir=str(tmp_path / "amp"), epochs=1), progress=False)
    assert np.isfinite(result.history[0]["train_loss"])


def test_non_finite_loss_stops_and_says_where(small_mini, tmp_path, monkeypatch):
    monkeypatch.setattr("sgre_lib.training.losses.AsymmetricLoss.forward", lambda self, x, y: x.sum() * float("nan"))
    with pytest.raises(NonFiniteLoss, match="epoch 1, batch"):
        train(**options(small_mini, exp_dir=str(tmp_path / "nan")), progress=False)
    assert "NonFiniteLoss" in (tmp_path / "nan" / "train.log").read_text()


def test_early_stop(small_mini, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "validate", lambda self: (0.5, 1 / self.state.epoch))
    result = train(**options(small_mini, estop=True, epochs=20, exp_dir=str(tmp_path / "stop")), progress=False)
    assert len(result.history) == 4  # the first was best, three were not
    assert result.best["epoch"] == 1


def test_numbered_folders(small_mini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = train(**options(small_mini, epochs=1), progress=False)
    second = train(**options(small_mini, epochs=1), progress=False)
    assert [run.exp_dir.relative_to(tmp_path).as_posix() for run in (first, second)] == [
        "experiments/mlic_mini/exp1",
        "experiments/mlic_mini/exp2",
    ]


def test_an_experiment_is_never_overwritten(experiment, small_mini):
    before = (experiment / "history.csv").read_bytes()
    with pytest.raises(UserError, match="already holds an experiment"):
        train(**options(small_mini, exp_dir=str(experiment)), progress=False)
    with pytest.raises(UserError, match=r"--lr 0\.5 differs from"):
        train(data=str(small_mini), exp_dir=str(experiment), resume=True, lr=0.5, progress=False)
    assert (experiment / "history.csv").read_bytes() == before


def test_a_broken_photo_names_itself(small_mini, data_root, tmp_path):
    """Also out of a loading process, whose error arrives wrapped in its traceback."""
    done = train_with_a_broken_photo(small_mini, data_root, tmp_path, num_workers=1)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()[-1]) < 400
    assert "broken.jpg cannot be read" in done.stderr.strip().splitlines()[-1]
