"""`sgre evaluate`: an experiment's best model scored on the test images."""

import os
from pathlib import Path

from ..base.device import choose_device
from ..base.provenance import describe_origin
from ..base.settings import check_limits
from ..model.experiment import open_experiment
from .metrics import evaluate_scores
from .result_files import write_results
from .scoring import score_split


def evaluate(
    exp_dir: str | os.PathLike,
    *,
    batch_size: int = 64,
    threshold: float | None = None,
    topk: int | None = None,
    data: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
    num_workers: int = -1,
    device: str = "auto",
    never_predicted: str = "one",
    progress: bool = True,
) -> dict:
    """Score the test images with an experiment's best EMA model, write the result files, and return the metrics.

    exp_dir: an experiment of ours or of the paper's authors. threshold: a label is predicted from this score on, in
    0..1. topk: k of the top-k metrics and of `prediction.txt`; both default to the experiment's settings. data: another
    prepared dataset with the same labels. never_predicted: see `metrics.precision_recall`.
    Writes result.txt, result.json, prediction.txt, scores.npy and targets.npy (and ignore.npy where there is a mask)
    into exp_dir. The returned dictionary is `evaluate_scores`'s with labels, images, threshold, topk and exp_dir added.
    """
    check_limits(threshold=threshold, topk=topk, batch_size=batch_size)
    chosen = choose_device(device)
    model, settings, prepared = open_experiment(exp_dir, data, data_root)
    threshold = settings.threshold if threshold is None else threshold
    topk = settings.topk if topk is None else topk
    labels, split = prepared.labels, prepared.split("test")
    scores = score_split(
        model, split, settings, chosen, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    metrics = evaluate_scores(scores, split.targets, split.ignore, threshold, topk, never_predicted=never_predicted)
    metrics = {"images": len(split), "threshold": threshold, "topk": topk, **metrics}
    about = describe_origin(prepared.name, prepared.fingerprint(), chosen)
    write_results(Path(exp_dir).expanduser(), labels, split, scores, metrics, about)
    return metrics | {"labels": labels, "exp_dir": str(exp_dir)}
