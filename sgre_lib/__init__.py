"""SGRE for multi-label image classification: prepare, train, evaluate, visualise, reproduce.

The page `sgre_lib/README.md` says how the library is built. Names below are loaded when first used, so that
`import sgre_lib` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "UserError": "base.errors",
    "TrainSettings": "base.settings",
    "MachineSettings": "base.settings",
    "make_settings": "base.settings",
    "make_machine": "base.settings",
    "PreparedDataset": "datasets.prepared",
    "prepare": "datasets.prepare",
    "embed": "datasets.label_embeddings",
    "evaluate_scores": "evaluation.metrics",
    "average_precision": "evaluation.metrics",
    "AsymmetricLoss": "training.losses",
    "SGREHead": "model.head",
    "MovingAverage": "training.ema",
    "build_model": "model.build",
    "count_parameters": "model.build",
    "convert_released": "model.released",
    "export_released": "model.released",
    "load_experiment": "model.experiment",
    "train": "training.train",
    "read_history": "training.history",
    "evaluate": "evaluation.evaluate",
    "visualize": "heatmaps.visualize",
    "localise": "heatmaps.localise",
    "predict": "inference.predict",
    "export_onnx": "inference.export_onnx",
    "reproduce": "tables.reproduce",
    "build_report": "tables.report",
    "read_results": "tables.results",
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
