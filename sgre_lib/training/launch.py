"""Several training processes on this machine, started with PyTorch's own launcher and ended with one message."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from ..base.errors import LoaderDied, NonFiniteLoss, Stopped, UserError

ERROR_FILE = "SGRE_ERROR_FILE"
"""Environment variable: where a process that `launch` started leaves the line with which it ended."""

ENDS = {kind.__name__: kind for kind in (UserError, Stopped, NonFiniteLoss, LoaderDied)}


class ProcessDied(RuntimeError):
    """One of the processes that `launch` started was killed; the message names it and the signal."""


def leave_end(error: BaseException) -> None:
    """In a process that `launch` started: say in a file how it ended. The first to end is the one that counts."""
    if ERROR_FILE in os.environ and type(error).__name__ in ENDS:
        with contextlib.suppress(FileExistsError), open(os.environ[ERROR_FILE], "x", encoding="utf-8") as file:
            json.dump([type(error).__name__, str(error)], file)


def launch(arguments: list[str], processes: int) -> None:
    """Run `sgre_lib` with these arguments in `processes` processes on this machine, and wait for them.

    A subprocess runs PyTorch's own launcher, so the caller (a notebook's kernel, say) keeps its signal handlers and
    its CUDA state. What the processes print is passed on as it comes. Ctrl-C and SIGTERM stop the group once, and it is
    given time to save. A process that ends with UserError, Stopped or NonFiniteLoss raises the same here; any other
    failure raises RuntimeError with the last lines printed (ProcessDied where a process was killed).
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "sgre_lib", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        end = Path(folder) / "end.json"
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1", ERROR_FILE: str(end)}
        # A session of its own: a terminal's Ctrl-C reaches the group through us, once, and not twice.
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        tail = b""
        try:
            with _passing_on_sigterm(child):
                while chunk := child.stdout.read1(4096):
                    tail = (tail + chunk)[-4000:]
                    sys.stderr.write(chunk.decode(errors="replace"))
                    sys.stderr.flush()
                status = child.wait()
        except BaseException:
            child.send_signal(signal.SIGTERM)
            try:
                child.communicate(timeout=90)  # torchrun itself waits 30 s for its processes
            except subprocess.TimeoutExpired:
                child.kill()
            raise
        if status:
            if end.exists():
                kind, message = json.loads(end.read_text(encoding="utf-8"))
                raise ENDS[kind](message)
            said = tail.decode(errors="replace").replace("\r", "\n")
            killed = re.findall(r"rank\s*:\s*(\d+)[^\[]*?exitcode\s*:\s*-\d+[^\[]*?\((SIG\w+)\)", said)
            # SIGTERM is torchrun's own, to the processes that were left.
            killed = [(rank, name) for rank, name in killed if name != "SIGTERM"]
            if killed:
                (rank, name), *_ = killed
                which = f"process {int(rank) + 1} of {processes} was killed by {name}"
                raise ProcessDied(which + (" (out of memory, perhaps)" if name == "SIGKILL" else ""))
            last = said.strip().splitlines()[-12:]
            raise RuntimeError(
                f"training in {processes} processes failed with status {status}; it ended:\n" + "\n".join(last)
            )


@contextlib.contextmanager
def _passing_on_sigterm(child: subprocess.Popen) -> Iterator[None]:
    """Pass SIGTERM on to the child, which saves and ends, instead of dying and leaving it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
