"""A Slurm array script for the runs that are missing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from ..base.errors import UserError
from ..base.files import write_text
from ..base.places import check_out
from .declaration import Table
from .plan import PlannedRun, all_tables, expected_time


def write_slurm(
    plan: list[PlannedRun], path: str | os.PathLike, *, jobs: int = 1, seeds: Iterable[int] | None = None
) -> Path:
    """Write a Slurm array script with one task for each planned run, and return its path.

    Each task is one process on one GPU. jobs: tasks at a time where above 1, else as many as the cluster gives. seeds:
    where they are not the declared ones. The time limit is twice the longest expected run, where that is known. A
    preempted task is queued again and resumes.
    """
    if not plan:
        raise UserError("--slurm: every run is done, there is nothing to submit")
    path = check_out(path)
    tables = list(dict.fromkeys(_table_argument(item.table) for item in plan))
    scales = list(dict.fromkeys(item.table.scale for item in plan))
    hours = [item.run.hours for item in plan]
    limit = [] if None in hours else [f"#SBATCH --time={max(1, round(2 * max(hours) + 0.5))}:00:00"]
    entries = [
        f"  {shlex.quote(f'{item.run.key} {item.run.seed} {item.table.scale} {_table_argument(item.table)}')}"
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
        "#SBATCH --gpus-per-task=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --requeue",
        *limit,
        "RUNS=(",
        *entries,
        ")",
        'read -r key seed scale table <<< "${RUNS[$SLURM_ARRAY_TASK_ID]}"',
        'exec sgre reproduce "$table" --scale "$scale" --seeds "$seed" --only-run "$key"',
        "# When all tasks have ended, this makes the tables and their reports:",
        *again,
    ]
    return write_text(path, "\n".join(lines) + "\n")


def _table_argument(table: Table) -> str:
    """How the command line names a table: by its name where that finds it, else by its path."""
    return table.path.stem if table.path.stem in all_tables() else str(table.path.resolve())
