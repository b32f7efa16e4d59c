"""Protects long runs: damaged and unwritable checkpoints, killed processes, shared batches, a missing compiler."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import updates
from conftest import ROOT, TINY, run_sgre, train_words

from sgre_lib import UserError, read_history, train
from sgre_lib.base.errors import LoaderDied, Stopped
from sgre_lib.images.dataloader import PhotoDataset
from sgre_lib.model.attention import InterModalAttention
from sgre_lib.model.checkpoints import read_checkpoint
from sgre_lib.training.loop import Trainer

LAST, PREVIOUS = "checkpoints/last.pth", "checkpoints/previous.pth"
COLUMNS = ("epoch", "train_loss", "lr", "mAP", "ema_mAP")


def options(small_mini, **changes):
    return {"data": str(small_mini), "embed_type": "random", "pos": True, **TINY, **changes}


def equal(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits: model, moving average and optimiser."""
    a, b = (
        {key: read_checkpoint(path / LAST)[key] for key in ("model", "average", "optimizer")} for path in (one, other)
    )
    leaves = [torch.utils._pytree.tree_leaves(state) for state in (a, b)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(*leaves, strict=True))


def rows(history) -> list:
    return [[row[column] for column in COLUMNS] for row in history]


@pytest.fixture(scope="module")
def whole(small_mini, tmp_path_factory):
    """An undisturbed run of two epochs."""
    return train(**options(small_mini, exp_dir=str(tmp_path_factory.mktemp("engine") / "whole")), progress=False)


def start(small_mini, folder: Path, *, command=("-m", "sgre_lib"), **changes) -> subprocess.Popen:
    """`sgre train` in the background, in a process group of its own."""
    words = train_words(**options(small_mini, exp_dir=str(folder), **changes))
    return subprocess.Popen(
        [sys.executable, *command, *words], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def processes_below(parent: int) -> dict[int, str]:
    """Process ids and command lines of everything that a process has started, however deep."""
    parents, commands = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):
            continue  # it has ended meanwhile

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == parent:
                return True
        return False

    return {pid: commands[pid] for pid in commands if descends(pid)}


def trainers_below(parent: int) -> list[int]:
    """The process ids of the training processes that a launcher has started."""
    lines = processes_below(parent).items()
    return [pid for pid, line in lines if "sgre_lib train" in line and "torch.distributed.run" not in line]


# --- What is on the disk -------------------------------------------------------------------------------------------


def test_a_damaged_last_checkpoint_is_stepped_over(whole, small_mini, tmp_path, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(whole.exp_dir, copy)
    (copy / LAST).write_bytes((copy / LAST).read_bytes()[:1000])
    resumed = train(exp_dir=str(copy), resume=True, progress=False)
    assert rows(resumed.history) == rows(whole.history)
    assert equal(copy, whole.exp_dir)
    assert "previous.pth is read instead" in (copy / "train.log").read_text()


def test_two_damaged_checkpoints_are_one_line(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole.exp_dir, copy)
    for name in (LAST, PREVIOUS):
        (copy / name).write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"last\.pth"):
        train(exp_dir=str(copy), resume=True, progress=False)


def test_a_full_disk_stops_the_run_and_harms_nothing(whole, small_mini, tmp_path):
    """A limit on file sizes stands in for it: it fails the same writes, in the middle of a checkpoint."""
    folder = tmp_path / "exp"
    train(
        **options(small_mini, exp_dir=str(folder), epochs=2),
        progress=False,
        on_epoch=copy_once(folder, tmp_path / "one"),
    )
    before = (tmp_path / "one" / LAST).read_bytes()
    command = [sys.executable, "-m", "sgre_lib", "train", "--resume", "--exp-dir", str(tmp_path / "one")]
    size = len(before) // 2
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be written" in done.stderr.strip().splitlines()[-1]
    assert "--resume" in done.stderr.strip().splitlines()[-1]
    assert (tmp_path / "one" / LAST).read_bytes() == before
    assert not list((tmp_path / "one").rglob("*.part"))
    resumed = train(exp_dir=str(tmp_path / "one"), resume=True, progress=False)
    assert rows(resumed.history) == rows(whole.history)
    assert equal(tmp_path / "one", whole.exp_dir)


def copy_once(source: Path, target: Path):
    """What copies a run as it stands after its first epoch."""
    return lambda history: shutil.copytree(source, target) if len(history) == 1 else None


def test_saves_within_an_epoch(whole, small_mini, tmp_path, monkeypatch):
    """A run that dies goes on from the last of them, not from the epoch's beginning."""

    class Dies(Trainer):
        def step(self, *arguments):
            if self.steps_done == 4:
                raise MemoryError("killed")
            return super().step(*arguments)

    monkeypatch.setattr("sgre_lib.training.train.Trainer", Dies)
    with pytest.raises(MemoryError):
        train(**options(small_mini, exp_dir=str(tmp_path / "exp"), save_minutes=1e-6), progress=False)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "exp" / LAST)["batch"] == 4
    train(exp_dir=str(tmp_path / "exp"), resume=True, progress=False)
    assert equal(tmp_path / "exp", whole.exp_dir)


# --- Several processes ---------------------------------------------------------------------------------------------


def test_a_shared_batch_gives_the_same_gradients_and_updates(small_mini, tmp_path):
    """Two processes, and a batch in two parts, against one process: gradients, weights and average to 1e-6."""
    updates.main(str(tmp_path), str(small_mini), "3", "1", "2")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", updates.__file__]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    arguments = [str(tmp_path), str(small_mini), "3", "1", "2"]
    subprocess.run([*launcher, *arguments], env=environment, check=True, timeout=120)
    one, *others = (torch.load(tmp_path / f"{name}.pth") for name in ("1x1", "1x2", "2x1", "2x2"))
    for other in others:
        for kind in one:
            for key, value in one[kind].items():
                difference = (other[kind][key] - value).abs().max()
                assert difference <= 1e-6 * max(1, value.abs().max()), (kind, key)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(small_mini, tmp_path):
    folder = tmp_path / "exp"
    child = start(small_mini, folder, processes=2, epochs=300)
    wait_for(folder / PREVIOUS)  # there from the second save on, at the end of the first epoch
    trainers = trainers_below(child.pid)
    killed_at = time.monotonic()
    os.kill(max(trainers), signal.SIGKILL)
    output, _ = child.communicate(timeout=60)
    assert time.monotonic() - killed_at < 60
    assert child.returncode == 1
    assert re.search(r"process \d of 2 was killed by SIGKILL", output.strip().splitlines()[-1])
    assert "--resume" in output.strip().splitlines()[-1]
    assert read_checkpoint(folder / LAST)["epoch"] >= 2


def test_torchrun_restarts_a_killed_run_where_it_was(whole, small_mini, tmp_path):
    folder = tmp_path / "exp"
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=1",
        "--max-restarts=1",
        "-m",
        "sgre_lib",
    ]
    child = start(small_mini, folder, command=launcher, epochs=15)
    wait_for(folder / "history.csv")
    trainers = trainers_below(child.pid)
    os.kill(max(trainers), signal.SIGKILL)
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 0, output
    assert "resumed at epoch" in (folder / "train.log").read_text()
    assert [row["epoch"] for row in read_history(folder)] == list(range(1, 16))


def test_a_restart_without_a_folder_is_refused(small_mini, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "x"), ("TORCHELASTIC_RESTART_COUNT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--exp-dir"):
        train(**options(small_mini), progress=False)


def test_a_killed_image_loader_is_one_line(small_mini, tmp_path, monkeypatch):
    """It dies while it makes an image: killed as it holds a lock of the loader's, it would leave the trainer waiting."""
    make_image, trainer = PhotoDataset.__getitem__, os.getpid()

    def die_in_the_second_epoch(self, key):
        if os.getpid() != trainer and isinstance(key, tuple) and key[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return make_image(self, key)

    monkeypatch.setattr(PhotoDataset, "__getitem__", die_in_the_second_epoch)
    with pytest.raises(LoaderDied, match="image loading process was killed"):
        train(**options(small_mini, exp_dir=str(tmp_path / "exp"), num_workers=1), progress=False)


# --- How it is computed --------------------------------------------------------------------------------------------


def test_memory_order_and_deterministic_algorithms_keep_the_numbers(whole, small_mini, tmp_path):
    other = train(
        **options(small_mini, exp_dir=str(tmp_path / "exp"), channels_last=True, deterministic=True), progress=False
    )
    assert other.history[0]["train_loss"] == pytest.approx(whole.history[0]["train_loss"], rel=1e-4)
    assert not torch.are_deterministic_algorithms_enabled()


def test_parts_of_a_batch_keep_the_schedule(whole, small_mini, tmp_path):
    parts = train(**options(small_mini, exp_dir=str(tmp_path / "exp"), accumulate=4), progress=False)
    assert [row["lr"] for row in parts.history] == [row["lr"] for row in whole.history]
    with pytest.raises(UserError, match="--accumulate 3"):
        train(**options(small_mini, accumulate=3), progress=False)


def test_without_a_compiler_the_model_runs_as_it_is_and_says_so_once(whole, small_mini, tmp_path):
    folder = tmp_path / "exp"
    words = train_words(**options(small_mini, exp_dir=str(folder), compile=True))
    environment = {
        "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # fmt: skip
    done = run_sgre(*words, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / "train.log").read_text().count("--compile is not possible here") == 1
    assert rows(read_history(folder)) == rows(whole.history)


def test_compiled_attention_gives_the_same_numbers():
    """The compiler takes the chunked operators as they are, forwards and backwards."""
    torch.manual_seed(0)
    attention, features, labels = InterModalAttention(8, 6, 16), torch.randn(2, 9, 8), torch.randn(5, 6)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    outcomes = []
    for run in (attention, compiled):
        x = features.clone().requires_grad_()
        attention.zero_grad()
        run(x, labels, 0.5).square().sum().backward()
        outcomes.append([x.grad, *(p.grad.clone() for p in attention.parameters())])
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs)


# --- Seeing it -----------------------------------------------------------------------------------------------------


def test_events_and_a_live_history(small_mini, tmp_path):
    seen: list[int] = []
    folder = tmp_path / "exp"
    train(
        **options(small_mini, exp_dir=str(folder), tensorboard=True), progress=False,
        on_epoch=lambda history: seen.append(len(history)),
    )  # fmt: skip
    assert seen == [1, 2]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert {"loss/epoch", "lr", "mAP/model", "mAP/EMA", "images per second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("mAP/EMA")] == [6, 12]


def test_a_live_history_of_other_processes(small_mini, tmp_path):
    seen: list[int] = []
    settings = options(small_mini, exp_dir=str(tmp_path / "exp"), processes=2)
    train(**settings, progress=False, on_epoch=lambda history: seen.append(len(history)))
    assert seen[-1] == 2


def test_a_stop_is_no_error_of_the_program():
    assert Stopped("why").code == 1
