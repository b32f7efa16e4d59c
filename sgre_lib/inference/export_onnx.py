"""An experiment's model as one ONNX file that says itself how it is used, checked against PyTorch."""

import io
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import UserError
from ..base.files import open_atomic
from ..base.places import check_out
from ..base.provenance import code_version, package_versions
from ..base.settings import TrainSettings
from ..images.transforms import IMAGENET_MEAN, IMAGENET_STD
from ..model.build import PatchModel, build_model
from ..model.experiment import load_experiment

OPSETS = range(14, 21)  # from 14 on attention can be said; 20 is the last that PyTorch's TorchScript exporter knows
TOLERANCE = 1e-4  # the largest difference between the file's and PyTorch's scores, and alignment, that passes
CHECKED_BATCHES = (1, 3)  # the graph is traced with 2 images, so one that is tied to their number is found out

LOG = logging.getLogger("sgre_lib.export")


class ExportMismatch(RuntimeError):
    """The exported graph does not compute what PyTorch computes; nothing was written."""


def export_onnx(
    exp_dir: str | os.PathLike,
    out: str | os.PathLike,
    *,
    image_size: int | None = None,
    opset: int = 17,
    data: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
) -> Path:
    """Write the best EMA model of an experiment, ours or the authors', as an ONNX file, and return its path.

    Input `images` (N, 3, S, S) float32, prepared as the file's metadata say (see `describe_model`); N is free. Outputs
    `scores` (N, L), fractions, and, where the model has one, `alignment` (N, L, H, W), which sums to 1 over a map (less
    a class token's share, where a ViT keeps it). Everything is float32, also of an experiment trained with --amp.
    image_size: S, where it is not to be the experiment's; the position map is made anew for the new grid, and scores
    are then not those of `evaluate`. opset: see OPSETS. data, data_root: as in `load_experiment`.

    The graph is compared with PyTorch where onnxruntime is installed; without it a warning is logged and the metadata
    say that nothing was compared. Raises UserError for what cannot be exported and where the package onnx is missing,
    ExportMismatch where the comparison fails. The file appears whole or not at all.
    """
    target = check_out(out)
    if opset not in OPSETS:
        raise UserError(f"--opset {opset} is not between {OPSETS[0]} and {OPSETS[-1]}")
    try:
        import onnx
    except ImportError:
        raise UserError("exporting to ONNX needs the package onnx: pip install onnx onnxruntime") from None
    model, settings, labels = load_experiment(exp_dir, data=data, data_root=data_root)
    trained_size = settings.image_size
    if image_size is not None and image_size != trained_size:
        model = resize_model(model, settings, image_size, len(labels))
        settings = settings.replace(image_size=image_size)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    if weights > 2**31 - 2**24:  # a message of protobuf's, less room for the graph
        raise UserError(f"the model has {weights / 2**30:.1f} GiB of weights, and an ONNX file holds 2 GiB")
    graph_model = OnnxModel(model).eval()
    graph = trace(graph_model, settings.image_size, opset)
    compared = compare(graph, graph_model, settings.image_size)
    message = onnx.load_from_string(graph)
    onnx.checker.check_model(message)
    about = describe_model(settings, labels, model.head.grid) | {
        "max_difference_from_pytorch": compared or "not compared",
        "code_version": code_version(),
        "versions": package_versions(("torch", "timm", "onnx", "onnxruntime")),
        "experiment": "/".join(Path(exp_dir).resolve().parts[-2:]),
        "trained_image_size": trained_size,
    }
    texts = {
        key: text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for key, text in about.items()
    }
    onnx.helper.set_model_props(message, texts)
    message.doc_string = "Multi-label image classification by sgre_lib; the metadata say how photos are prepared."
    with open_atomic(target, "wb") as file:
        file.write(message.SerializeToString())
    return target


class OnnxModel(nn.Module):
    """What the file computes: images (N, 3, S, S) -> scores (N, L) and, where there is one, alignment (N, L, H, W)."""

    def __init__(self, model: PatchModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output = self.model(images)
        scores = torch.sigmoid(output.logits)
        maps = self.model.alignment_maps(output)
        return (scores,) if maps is None else (scores, maps)


def resize_model(model: PatchModel, settings: TrainSettings, image_size: int, label_count: int) -> PatchModel:
    """A trained model with the same weights for images of another size, in evaluation mode.

    Raises UserError where the backbone cannot take the size, or has weights that belong to the size it was trained at.
    """
    if image_size < 8:
        raise UserError(f"--image-size {image_size} is below 8")
    labels = {"label_embeddings": getattr(model.head, "label_embeddings", None), "label_count": label_count}
    resized = build_model(settings.replace(image_size=image_size), pretrained=False, **labels)
    # The position map is computed, not trained: the new grid's stays.
    state = {key: value for key, value in model.state_dict().items() if key != "head.position_map"}
    for key, value in resized.state_dict().items():
        if key in state and state[key].shape != value.shape:
            of_size = (
                f"{key} of {settings.arch} was trained for images of {settings.image_size} x {settings.image_size}"
            )
            raise UserError(f"--image-size {image_size}: {of_size} and fits no other size")
    resized.load_state_dict(state, strict=False)
    return resized.eval()


def trace(model: OnnxModel, image_size: int, opset: int) -> bytes:
    """The ONNX graph of a model, with a free number of images.

    PyTorch's TorchScript exporter is used: it needs no package besides torch, where the newer one needs onnxscript too.
    """
    images = torch.zeros(2, 3, image_size, image_size)
    with torch.no_grad():
        names = ["scores", "alignment"][: len(model(images))]
    options = {"input_names": ["images"], "output_names": names, "opset_version": opset, "dynamo": False}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # That this exporter is the older one is known, and that sizes other than N become constants is meant.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            model, (images,), file, dynamic_axes={name: {0: "N"} for name in ("images", *names)}, **options
        )
    return file.getvalue()


def compare(graph: bytes, model: OnnxModel, image_size: int) -> dict[str, float] | None:
    """The largest difference between each output of a graph in onnxruntime and of PyTorch, on random images.

    None where onnxruntime is not installed. Raises ExportMismatch where a difference is above TOLERANCE.
    """
    try:
        import onnxruntime
    except ImportError:
        LOG.warning("the ONNX graph was not compared with PyTorch: onnxruntime is not installed")
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    difference = {output.name: 0.0 for output in session.get_outputs()}
    generator = torch.Generator().manual_seed(0)
    for count in CHECKED_BATCHES:
        images = torch.randn(count, 3, image_size, image_size, generator=generator)
        with torch.inference_mode():
            expected = [output.numpy() for output in model(images)]
        for name, ours, theirs in zip(difference, expected, session.run(None, {"images": images.numpy()}), strict=True):
            if theirs.shape != ours.shape:
                raise ExportMismatch(f"{name} of the ONNX graph has shape {theirs.shape}, PyTorch's {ours.shape}")
            # maximum, unlike max, passes a NaN on
            difference[name] = float(np.maximum(difference[name], np.abs(theirs - ours).max()))
    if not all(value <= TOLERANCE for value in difference.values()):
        differs = f"differs from PyTorch by more than {TOLERANCE:.0e} ({_list_differences(difference)})"
        raise ExportMismatch(f"the ONNX graph {differs}; nothing written")
    return difference


def _list_differences(difference: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in difference.items())


def describe_model(settings: TrainSettings, labels: list[str], grid: tuple[int, int]) -> dict[str, Any]:
    """The metadata of an ONNX file, where what is no text is written as JSON."""
    mean, std = (np.zeros(3), np.ones(3)) if settings.orid_norm else (IMAGENET_MEAN, IMAGENET_STD)
    side = settings.image_size
    return {
        "labels": labels,
        "image_size": side,
        "mean": [round(float(value), 6) for value in mean],
        "std": [round(float(value), 6) for value in std],
        "grid": grid,
        "images": f"RGB photos resized to {side} x {side} (bilinear, antialiased, aspect ratio ignored), divided by 255, "
        "less mean, divided by std, channels first: (N, 3, S, S) float32",
        "scores": "a fraction for each label, in the order of labels: (N, L)",
        "alignment": "where each label looks, a share for each patch of the grid: (N, L, H, W), where it is an output",
        "model": settings.model,
        "arch": settings.arch,
        "data": Path(settings.data).name,
    }


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The metadata of an ONNX file. Needs the package onnx; onnxruntime's `get_modelmeta()` says the same."""
    import onnx

    message = onnx.load(os.fspath(path), load_external_data=False)
    return {entry.key: entry.value for entry in message.metadata_props}


def describe_file(path: str | os.PathLike) -> str:
    """One line for a person: size, input, labels, and how far the file is from PyTorch."""
    about = read_metadata(path)
    side, size, labels = about["image_size"], Path(path).stat().st_size / 2**20, json.loads(about["labels"])
    compared = "not compared with PyTorch (onnxruntime is not installed)"
    if about["max_difference_from_pytorch"].startswith("{"):
        difference = json.loads(about["max_difference_from_pytorch"])
        compared = f"largest difference from PyTorch: {_list_differences(difference)}"
    return f"{path}: {size:.1f} MiB, images (N, 3, {side}, {side}), scores (N, {len(labels)}); {compared}"
