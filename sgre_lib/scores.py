"""The arrays that an evaluation leaves in its experiment folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .errors import UserError


def read_scores(exp_dir: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scores (N, L), targets (N, L) and mask (N, L) or None that `evaluate` left in an experiment.

    Raises UserError where it has not been evaluated, or where the arrays do not fit each other.
    """
    folder = Path(exp_dir).expanduser()
    if not (folder / "scores.npy").exists():
        raise UserError(f"{folder} has no scores.npy: evaluate it first (sgre evaluate --exp-dir {folder})")
    try:
        scores, targets = np.load(folder / "scores.npy"), np.load(folder / "targets.npy")
        ignore = np.load(folder / "ignore.npy") if (folder / "ignore.npy").exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the arrays of its evaluation cannot be read ({error})") from None
    if scores.shape != targets.shape or (ignore is not None and ignore.shape != scores.shape):
        raise UserError(f"{folder}: scores.npy, targets.npy and ignore.npy are of different shapes")
    return scores, targets, ignore
