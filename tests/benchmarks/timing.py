"""What the benchmarks share: works timed in turn, the peak memory of a fresh process, and the table that is written."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from sgre_lib.base.process import HOST_ENVIRONMENT

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"


def use_host_environment() -> None:
    """Start this script anew with what `HOST_ENVIRONMENT` says of memory: glibc reads it when a process starts.

    How OpenMP's threads wait is left as it is: here no image loader needs the core that a waiting thread spins on, and
    threads that sleep between operations slow the many small ones of the attention (a quarter more, on 2 cores).
    """
    wanted = {name: value for name, value in HOST_ENVIRONMENT.items() if name.startswith("MALLOC_")}
    if not wanted.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**wanted, **os.environ})


def time_in_turn(works: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each work. They run in turn, so that what else the machine does meets all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            wait_for(device)
            started = time.perf_counter()
            work()
            wait_for(device)
            if number:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def added_memory(work: Callable[[], object], device: str = "cpu") -> float:
    """MB that a work adds at its peak to what this process, or this GPU, holds already."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _peak_resident()
    work()
    return _peak_resident() - before


def _peak_resident() -> float:
    """Peak resident memory of this process so far, MB. getrusage will not do: a child starts with its parent's peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def ask_fresh_process(script: str, *arguments: str) -> float:
    """The number that a script prints as JSON when it is run with these arguments in a process of its own."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def print_row(row: Sequence) -> None:
    """One measurement: case, what, unit, ours, literal and their ratio."""
    case, what, unit, ours, literal, ratio = row
    print(f"{case:16} {what:22} {unit:10} ours {ours:10.4g}  literal {literal:10.4g}  ratio {ratio:6.2f}", flush=True)


def write_rows(name: str, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Write experiments/benchmarks/<name>.csv; numbers with four digits."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
