"""A Slurm array script for the runs that are missing."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from ..base.errors import UserError
from ..base.files import write_text
from ..base.places import check_out
from ..base.settings import MachineSettings
from .plan import PlannedRun, expected_time, table_argument


def write_slurm(
    plan: list[PlannedRun],
    path: str | os.PathLike,
    *,
    jobs: int = 1,
    seeds: Iterable[int] | None = None,
    machine: MachineSettings | None = None,
) -> Path:
    """Write a Slurm array script with one task for each planned run, and return its path.

    jobs: tasks at a time where above 1, else as many as the cluster gives. seeds: where they are not the declared ones.
    machine: of each task, which gets a GPU (but on a CPU) and the cores of the loaders for each process; 8 cores where
    their number is not said. The time limit is twice the longest expected run, where that is known. A preempted task is
    queued again and resumes.
    """
    if not plan:
        raise UserError("--slurm: every run is done, there is nothing to submit")
    path, machine = check_out(path), machine or MachineSettings()
    cores = machine.processes * (8 if machine.num_workers < 0 else machine.num_workers + 1)
    gpus = [] if machine.device == "cpu" else [f"#SBATCH --gpus-per-task={machine.processes}"]
    options = "".join(f" {shlex.quote(word)}" for word in machine.arguments())
    tables = list(dict.fromkeys(table_argument(item.table) for item in plan))
    scales = list(dict.fromkeys(item.table.scale for item in plan))
    hours = [item.run.hours for item in plan]
    limit = [] if None in hours else [f"#SBATCH --time={max(1, round(2 * max(hours) + 0.5))}:00:00"]
    entries = [
        f"  {shlex.quote(f'{item.run.key} {item.run.seed} {item.table.scale} {table_argument(item.table)}')}"
        f"  # {item.label}: {expected_time([item.run])}"
        for item in plan
    ]  # fmt: skip
    more = f" --seeds {','.join(map(str, seeds))}" if seeds else ""
    again = [f"#   sgre reproduce {' '.join(map(shlex.quote, tables))} --scale {scale}{more}" for scale in scales]
    lines = [
        "#!/bin/bash",
        f"# {len(plan)} runs, {expected_time(item.run for item in plan)} in all. Submit it in the checkout.",
        "# Prepare the datasets first (sgre prepare), and put what activates your environment before the last line.",
        "#SBATCH --job-name=sgre",
        f"#SBATCH --array=0-{len(plan) - 1}" + (f"%{jobs}" if jobs > 1 else ""),
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        *gpus,
        f"#SBATCH --cpus-per-task={cores}",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --requeue",
        *limit,
        "RUNS=(",
        *entries,
        ")",
        'read -r key seed scale table <<< "${RUNS[$SLURM_ARRAY_TASK_ID]}"',
        'exec sgre reproduce "$table" --scale "$scale" --seeds "$seed" --only-run "$key"' + options,
        "# When all tasks have ended, this makes the tables and their reports:",
        *again,
    ]
    return write_text(path, "\n".join(lines) + "\n")
