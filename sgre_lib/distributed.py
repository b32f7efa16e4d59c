"""One or several training processes behind the same few calls, on PyTorch's own engine."""

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
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from .errors import LoaderDied, NonFiniteLoss, Stopped, UserError

TIMEOUT = timedelta(minutes=30)
"""How long one process waits for the others; torchrun ends the rest of a group earlier when one of it dies."""


@dataclass(frozen=True)
class Processes:
    """The processes of this run, seen from one of them. rank: its number; world: how many; device: what it computes on."""

    rank: int
    world: int
    device: torch.device
    messages: Any = None  # the group in which Python objects travel; None: the only one there is

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any = None) -> Any:
        """Process 0's value, in every process."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.messages)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in rank order, in every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self.messages)
        return values

    def highest(self, value: int) -> int:
        """The highest of all processes' values. It does not wait for what a GPU is still doing."""
        if self.world == 1:
            return value
        box = torch.tensor(value)
        distributed.all_reduce(box, distributed.ReduceOp.MAX, group=self.messages)
        return int(box)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.highest(int(flag)))

    def broadcast_state(self, module: torch.nn.Module) -> None:
        """Give every process the parameters and buffers of process 0's module."""
        if self.world > 1:
            for tensor in module.state_dict(keep_vars=True).values():
                distributed.broadcast(tensor.detach(), src=0)

    def close(self) -> None:
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises UserError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device {device}: choose auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {device}: PyTorch sees no Apple GPU here")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {device}: PyTorch sees no CUDA device here")
        chosen = torch.device("cuda", chosen.index if chosen.index is not None else local_rank)
        if chosen.index >= torch.cuda.device_count():
            raise UserError(f"--device {chosen}: there are {torch.cuda.device_count()} CUDA devices")
    return chosen


def started_by_torchrun() -> bool:
    """Whether this process is one of several that `torchrun` (or `launch`) started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


def join_processes(device: str) -> Processes:
    """Join the group that torchrun's environment describes, or be alone. NCCL for CUDA, gloo for the CPU."""
    if not started_by_torchrun():
        return Processes(0, 1, choose_device(device))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world == 1:
        return Processes(0, 1, chosen)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT, device_id=chosen if chosen.type == "cuda" else None)
    # Messages go over the CPU: through NCCL every one of them would wait for the GPU's queue.
    messages = distributed.new_group(backend="gloo", timeout=TIMEOUT) if backend == "nccl" else None
    return Processes(rank, world, chosen, messages)


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
