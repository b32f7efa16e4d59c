"""Protects how a group of processes ends: with the first error that has a name, else with the signal, else the fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from sgre_lib.base.errors import NonFiniteLoss, Stopped, UserError
from sgre_lib.training.launch import ProcessDied, read_end, recorded_end


def leave(folder, rank: int, error: BaseException, monkeypatch, seconds: float = 0) -> None:
    """Let a process of this rank end with an error, as torchelastic would record it."""
    file = folder / "run" / "attempt_0" / str(rank) / "error.json"
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    with pytest.raises(type(error)), recorded_end():
        raise error
    os.utime(file, (1e9 + seconds, 1e9 + seconds))


@pytest.mark.parametrize("error", [UserError("no such photo: x"), Stopped("a: b"), NonFiniteLoss("nan")])
def test_an_error_with_a_name_comes_back_as_it_is(tmp_path, monkeypatch, error):
    leave(tmp_path, 0, RuntimeError("connection closed by peer"), monkeypatch)
    leave(tmp_path, 1, error, monkeypatch, 1)
    (tmp_path / "signals.json").write_text(json.dumps({"0": "SIGABRT"}))
    end = read_end(tmp_path, 2)
    assert type(end) is type(error)
    assert str(end) == str(error)


def test_the_first_of_several_counts(tmp_path, monkeypatch):
    leave(tmp_path, 0, UserError("second"), monkeypatch, 1)
    leave(tmp_path, 1, UserError("first"), monkeypatch)
    assert str(read_end(tmp_path, 2)) == "first"


def test_a_signal_and_a_fault_of_the_program(tmp_path, monkeypatch):
    assert read_end(tmp_path, 2) is None
    leave(tmp_path, 0, RuntimeError("connection closed by peer"), monkeypatch)
    assert str(read_end(tmp_path, 2)) == "training in 2 processes failed: RuntimeError: connection closed by peer"
    (tmp_path / "signals.json").write_text(json.dumps({"1": "SIGKILL"}))
    end = read_end(tmp_path, 2)
    assert isinstance(end, ProcessDied)
    assert str(end) == "process 2 of 2 was killed by SIGKILL (out of memory, perhaps)"


def test_without_a_launcher_nothing_is_recorded(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    with pytest.raises(UserError), recorded_end():
        raise UserError("alone")


def test_sigterm_ends_the_group_once(tmp_path):
    """The launcher passes it on, waits until the processes have saved, and leaves none behind."""
    package = tmp_path / "sgre_lib"
    package.mkdir()
    (package / "__main__.py").write_text(
        "import os, signal, sys, time\n"
        "def save(*_):\n    open(sys.argv[1] + os.environ['RANK'], 'x').close()\n    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open(sys.argv[1] + 'begun' + os.environ['RANK'], 'x').close()\ntime.sleep(60)\n"
    )
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from sgre_lib.training.launch import run_group; run_group(sys.argv[1], 2, [sys.argv[2]])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "logs"), f"{tmp_path}/"]
    child = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"begun{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)  # these processes begin so soon that torchelastic may not have noted them yet
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert (tmp_path / "0").exists(), errors
    assert (tmp_path / "1").exists(), errors
