"""Protects the lock on a folder: one holder among processes and threads, a message that names it, none after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from sgre_lib import UserError
from sgre_lib.base.lock import folder_lock


def hold_elsewhere(folder: Path, body: str) -> subprocess.Popen:
    """Another process that holds a folder's lock while it runs `body`; it has the lock when this returns."""
    lines = [
        "import multiprocessing, os, sys, time",
        "from sgre_lib.base.lock import folder_lock",
        f"with folder_lock({str(folder)!r}, 'training'):",
        *(f"    {line}" for line in ("print('held', flush=True)", *body.splitlines())),
    ]
    other = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert other.stdout.readline() == "held\n"
    return other


def test_the_message_names_the_holder(tmp_path):
    other = hold_elsewhere(tmp_path, "time.sleep(60)")
    try:
        with pytest.raises(UserError, match=rf"in use by process {other.pid} \(training\)"):
            folder_lock(tmp_path, "report").__enter__()
    finally:
        other.kill()
        other.communicate()
    with folder_lock(tmp_path, "report"):
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} (report)\n"


def test_it_excludes_the_same_process_too(tmp_path):
    with folder_lock(tmp_path, "training"):
        (tmp_path / ".lock").read_bytes()  # closing any descriptor of the file must not free it
        with pytest.raises(UserError, match=rf"process {os.getpid()} \(training\)"), folder_lock(tmp_path, "report"):
            pass
    with folder_lock(tmp_path, "report"):
        pass


def test_one_thread_waits_for_another(tmp_path):
    order = []

    def enter() -> None:
        with folder_lock(tmp_path, "second", wait=True):
            order.append("second")

    with folder_lock(tmp_path, "first"):
        thread = threading.Thread(target=enter)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(timeout=20)
    assert order == ["first", "second"]


def test_waiting_for_another_process(tmp_path):
    other = hold_elsewhere(tmp_path, "time.sleep(1)")
    with folder_lock(tmp_path, "report", wait=True):
        assert other.wait(timeout=20) == 0
    other.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="loaders are forked on Linux")
def test_forked_children_of_a_killed_holder_do_not_keep_it(tmp_path):
    """A trainer's loaders live on for seconds after it was killed: a prompt --resume must get in."""
    body = "loader = lambda: (print(os.getpid(), flush=True), time.sleep(60))\n"
    body += "multiprocessing.get_context('fork').Process(target=loader).start()\ntime.sleep(60)"
    other = hold_elsewhere(tmp_path, body)
    child = int(other.stdout.readline())
    try:
        with pytest.raises(UserError), folder_lock(tmp_path, "resume"):
            pass  # the child has not freed it for the others
        other.kill()
        other.wait()
        os.kill(child, 0)  # it lives
        with folder_lock(tmp_path, "resume"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        other.stdout.close()


def test_a_held_folder_that_is_renamed_frees_its_old_name(tmp_path):
    """A run that is done and forced again: its folder gets another name, and a new one takes its place."""
    folder = tmp_path / "run"
    folder.mkdir()
    with folder_lock(folder, "reproduce"):
        folder.rename(tmp_path / "aside")
        folder.mkdir()
        with folder_lock(folder, "reproduce"), pytest.raises(UserError), folder_lock(folder, "reproduce"):
            pass
    with folder_lock(folder, "reproduce"), folder_lock(tmp_path / "aside", "report"):
        pass
