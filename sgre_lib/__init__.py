"""SGRE for multi-label image classification: prepare, train, evaluate, visualise, reproduce.

The page `sgre_lib/README.md` says how the library is built. Names below are loaded when first used, so that
`import sgre_lib` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# OpenMP's threads wait by spinning unless told otherwise. On a small machine they then take the core from the very
# process that they wait for (an image loader, another row): measured on 2 cores, ten times slower. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "UserError": "errors",
    "TrainSettings": "settings",
    "make_settings": "settings",
    "PreparedDataset": "datasets",
    "prepare": "datasets",
    "embed": "semantics",
    "evaluate_scores": "metrics",
    "average_precision": "metrics",
    "AsymmetricLoss": "losses",
    "SGREHead": "head",
    "MovingAverage": "ema",
    "build_model": "model",
    "count_parameters": "model",
    "convert_released": "released",
    "export_released": "released",
    "load_experiment": "experiment",
    "train": "training",
    "read_history": "history",
    "evaluate": "evaluation",
    "visualize": "heatmaps",
    "localise": "localisation",
    "predict": "prediction",
    "export_onnx": "export",
    "reproduce": "reproduction",
    "build_site": "site",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
