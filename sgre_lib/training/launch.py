"""Several training processes on this machine, started with PyTorch's own launcher and ended with one message.

`launch` starts this module as a program of its own, which runs torchelastic. Each training process leaves the error that
it ended with in the file that torchelastic names to it (`recorded_end`).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..base.errors import LoaderDied, NonFiniteLoss, Stopped, UserError
from ..base.process import handling_signals

ENDS = {kind.__name__: kind for kind in (UserError, Stopped, NonFiniteLoss, LoaderDied)}
"""Ends of a process that are raised by `launch` as they are. Anything else is a fault of the program."""


class ProcessDied(RuntimeError):
    """One of the processes that `launch` started was killed; the message names it and the signal."""


@contextlib.contextmanager
def recorded_end() -> Iterator[None]:
    """In a process that torchelastic started: leave the error that ends the block where torchelastic reads it."""
    try:
        yield
    except BaseException as error:
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
        raise


def launch(arguments: list[str], processes: int, on_output: Callable[[], None]) -> None:
    """Run `sgre_lib` with these arguments in `processes` processes on this machine, and wait for them.

    A subprocess runs PyTorch's own launcher, so the caller (a notebook's kernel, say) keeps its signal handlers and
    its CUDA state. What the processes print is passed on as it comes, and `on_output` is called after each piece.
    Ctrl-C and SIGTERM stop the group once, and it is given time to save. A process that ends with UserError, Stopped,
    NonFiniteLoss or LoaderDied raises the same here; ProcessDied where one was killed; any other failure is a
    RuntimeError with its last line.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory() as folder:
        # A session of its own: a terminal's Ctrl-C reaches the group through us, once, and not twice.
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, folder, str(processes), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            with handling_signals(lambda *_: child.send_signal(signal.SIGTERM), signal.SIGTERM):
                while chunk := child.stdout.read1(4096):
                    sys.stderr.write(chunk.decode(errors="replace"))
                    sys.stderr.flush()
                    on_output()
                status = child.wait()
        except BaseException:
            child.send_signal(signal.SIGTERM)
            try:
                child.communicate(timeout=90)  # torchelastic itself waits 30 s for its processes
            except subprocess.TimeoutExpired:
                child.kill()
            raise
        if status:
            raise read_end(Path(folder), processes) or RuntimeError(
                f"training in {processes} processes failed with status {status}; the lines above say why"
            )


def read_end(folder: Path, processes: int) -> BaseException | None:
    """How a group of processes ended, from what it left in its folder: the first error with a name, else a signal."""
    errors = []
    for path in sorted(folder.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            errors.append(json.loads(path.read_text(encoding="utf-8"))["message"]["message"].split(": ", 1))
    for kind, message in errors:
        if kind in ENDS:
            return ENDS[kind](message)
    with contextlib.suppress(OSError, ValueError):
        for rank, name in json.loads((folder / "signals.json").read_text(encoding="utf-8")).items():
            which = f"process {int(rank) + 1} of {processes} was killed by {name}"
            return ProcessDied(which + (" (out of memory, perhaps)" if name == "SIGKILL" else ""))
    return RuntimeError(f"training in {processes} processes failed: {': '.join(errors[0])}") if errors else None


def run_group(folder: str, processes: int, arguments: list[str]) -> None:
    """Run `sgre_lib` in several processes under torchelastic; SystemExit(1) where one of them fails.

    The folder gets `error.json` of each that ended with an error, and `signals.json`: rank -> name of the signal that
    killed it.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=folder),
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "sgre_lib", *arguments)
    except ChildFailedError as error:
        # SIGTERM is torchelastic's own, to the processes that were left.
        killed = {
            rank: failure.signal_name()
            for rank, failure in error.failures.items()
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        }
        Path(folder, "signals.json").write_text(json.dumps(killed), encoding="utf-8")
        sys.exit(1)
    except SignalException:
        sys.exit(1)


if __name__ == "__main__":
    run_group(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
