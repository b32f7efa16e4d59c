"""SGRE for multi-label image classification: prepare, train, evaluate, visualise, reproduce.

The page `sgre_lib/README.md` says how the library is built. Names below are loaded when first used, so that
`import sgre_lib` is quick and needs no torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "base.errors": ("UserError",),
    "base.settings": ("TrainSettings", "MachineSettings", "make_settings", "make_machine"),
    "datasets.prepared": ("PreparedDataset",),
    "datasets.prepare": ("prepare",),
    "datasets.label_embeddings": ("embed",),
    "evaluation.metrics": ("evaluate_scores", "average_precision"),
    "training.losses": ("AsymmetricLoss",),
    "model.head": ("SGREHead",),
    "training.ema": ("MovingAverage",),
    "model.build": ("build_model", "count_parameters"),
    "model.released": ("convert_released", "export_released"),
    "model.experiment": ("load_experiment",),
    "training.train": ("train",),
    "training.history": ("read_history",),
    "evaluation.evaluate": ("evaluate",),
    "heatmaps.visualize": ("visualize",),
    "heatmaps.localise": ("localise",),
    "inference.predict": ("predict",),
    "inference.export_onnx": ("export_onnx",),
    "tables.reproduce": ("reproduce",),
    "tables.report": ("build_report",),
    "tables.results": ("read_results",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
