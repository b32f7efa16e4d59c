"""Every option of a training run, once: its default, its meaning, its check, and its place in `config.yaml`.

The command line, the notebooks, the tables and the experiment folder all use these names.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import write_text


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of `TrainSettings`. more: `choices`; `low`/`high` (inclusive) or `above` (exclusive) bounds; `kind`."""
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one training run. Defaults are the published recipe's, except where the text says "ours"."""

    # What is trained
    data: str = option("", "dataset name (data/<name>) or the path of a prepared folder", kind=str)
    data_root: str | None = option(None, "folder of raw datasets; default SGRE_DATA_ROOT, else data/raw", kind=str)
    model: str = option(
        "mlic", "mlic is SGRE; gap is ours: global average pooling, one linear layer", choices=("mlic", "gap")
    )
    arch: str = option("resnet101", "backbone: a name of sgre_lib.backbones or any timm model", kind=str)
    pretrained: bool = option(True, "start from ImageNet weights (timm downloads them once)")
    backbone_weights: str | None = option(None, "local file of backbone weights, instead of a download", kind=str)
    output_stride: int | None = option(
        None, "ours: pixels a patch, for a finer grid; default the backbone's", kind=int, choices=(8, 16, 32)
    )
    embed_type: str = option("bert", "label embeddings: random, or NAME for <data>/NAME.npy, or a .npy file", kind=str)
    # The head
    pos: bool = option(False, "add the 2-D sine position map to the patch encoder's queries and keys")
    num_layers: int = option(1, "layers of the patch encoder", low=0, high=12)
    num_heads: int = option(8, "attention heads of the patch encoder; must divide the feature width", low=1)
    normalize_before: bool = option(False, "pre-norm patch encoder")
    tau: float = option(1.0, "temperature of the alignment softmax", above=0)
    rm_cls: bool = option(False, "drop a ViT's class token (--pos does so by itself)")
    branches: str = option(
        "both", "ours, for the ablation: both, patch only or object only", choices=("both", "patch", "object")
    )
    # The loss
    loss: str = option("asl", "asymmetric loss or mean binary cross-entropy", choices=("asl", "bce"))
    lamda: float = option(0.1, "weight of the object branch's loss", low=0)
    gamma_neg: float = option(2.0, "asl: focusing of negatives", low=0)
    gamma_pos: float = option(0.0, "asl: focusing of positives", low=0)
    clip: float = option(0.0, "asl: probability margin of negatives", low=0, high=1)
    # The recipe
    epochs: int = option(60, "passes over the training images", low=1)
    batch_size: int = option(128, "images a step, over all processes together", low=1)
    lr: float = option(9e-5, "highest learning rate of the one-cycle schedule", above=0)
    weight_decay: float = option(1e-4, "AdamW weight decay", low=0)
    true_weight_decay: bool = option(False, "exempt biases and other 1-D parameters from weight decay", short="-twd")
    ema_decay: float = option(0.9997, "decay of the moving average of the weights, a step", low=0, high=1)
    image_size: int = option(448, "side of the square image, pixels", low=8, high=4096)
    orid_norm: bool = option(False, "do not normalise by ImageNet's mean and deviation")
    augment: str = option(
        "full", "full is the release's; flip and none are ours, for small runs", choices=("full", "flip", "none")
    )
    estop: bool = option(False, "stop after 3 epochs without a better EMA mAP")
    seed: int = option(0, "of initial weights, batch order, augmentation and dropout", low=0)
    # The machine
    amp: bool = option(False, "mixed precision: bfloat16 where the device has it, else float16 with a kept scaler")
    channels_last: bool = option(False, "channels-last memory order: equal to rounding, convolutions often faster")
    compile: bool = option(False, "compile the model (torch.compile); where that fails it runs as it is and says so")
    deterministic: bool = option(False, "CUDA too gives the same bits in every run; slower")
    accumulate: int = option(
        1, "parts of a batch that go through the model one after another, for small cards; same batch, same schedule",
        low=1,
    )  # fmt: skip
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", kind=str)
    processes: int = option(1, "processes to start on this machine, one a GPU", low=1)
    num_workers: int = option(-1, "image loading processes a training process; -1: one a core, at most 8", low=-1)
    cache: str = option(
        "none",
        "keep resized images after their first reading, in memory or on disk (in SGRE_CACHE, else ~/.cache/sgre)",
        choices=("none", "memory", "disk"),
    )
    # The experiment
    save_minutes: float = option(10.0, "minutes between saves within an epoch; each epoch's end saves too", above=0)
    tensorboard: bool = option(False, "also write TensorBoard events into the experiment folder")
    exp_dir: str | None = option(None, "experiment folder; default experiments/mlic_<data>/exp<N>", kind=str)
    resume: bool = option(False, "go on from checkpoints/last.pth of --exp-dir")

    def check(self, *, needs_data: bool = True) -> TrainSettings:
        """These settings, or UserError naming the first option that cannot be. needs_data: `data` must be given."""
        for item in fields(self):
            _check_value(item, getattr(self, item.name))
        if needs_data and not self.data and not self.resume:
            raise UserError("--data is missing: a dataset's name or the path of a prepared folder")
        if self.batch_size % self.processes:
            raise UserError(f"--batch-size {self.batch_size} is not a multiple of --processes {self.processes}")
        if self.batch_size % (self.processes * self.accumulate):
            parts = f"--processes {self.processes} x --accumulate {self.accumulate}"
            raise UserError(f"--batch-size {self.batch_size} is not a multiple of {parts}")
        if self.resume and not self.exp_dir:
            raise UserError("--resume needs --exp-dir, the folder to go on with")
        return self

    def replace(self, **changes: Any) -> TrainSettings:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def arguments(self) -> list[str]:
        """The command-line options that say these settings, leaving out defaults."""
        words: list[str] = []
        for item in fields(self):
            value = getattr(self, item.name)
            flag = "--" + item.name.replace("_", "-")
            if value == item.default:
                continue
            if isinstance(value, bool):
                words.append(flag if value else "--no-" + flag[2:])
            else:
                words += [flag, str(value)]
        return words


def _check_value(item: dataclasses.Field, value: Any) -> None:
    rules, flag = item.metadata, "--" + item.name.replace("_", "-")
    if value is None and item.default is None:
        return
    kind = option_kind(item)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    right = {bool: isinstance(value, bool), str: isinstance(value, str), float: is_number}.get(
        kind, is_number and float(value).is_integer()
    )
    if not right:
        raise UserError(f"{flag} {value!r} is not {_KIND_NAMES[kind]}")
    if is_number and value != value:
        raise UserError(f"{flag} is not a number")
    if "choices" in rules and value not in rules["choices"]:
        raise UserError(f"{flag} {value}: choose from {', '.join(map(str, rules['choices']))}")
    if "low" in rules and value < rules["low"]:
        raise UserError(f"{flag} {value} is below {rules['low']}")
    if "high" in rules and value > rules["high"]:
        raise UserError(f"{flag} {value} is above {rules['high']}")
    if "above" in rules and value <= rules["above"]:
        raise UserError(f"{flag} {value} must be above {rules['above']}")


_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def option_kind(item: dataclasses.Field) -> type:
    """The Python type of an option: bool, int, float or str."""
    return item.metadata.get("kind") or type(item.default)


def make_settings(*, needs_data: bool = True, **values: Any) -> TrainSettings:
    """Settings from keyword arguments, checked; text such as "9e-05" is read as the number it says.

    Raises UserError for an unknown name (with the nearest known one) and for a value out of its range.
    """
    known = {item.name: item for item in fields(TrainSettings)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UserError(f"unknown setting {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    settings = TrainSettings(**{name: coerce(known[name], value) for name, value in values.items()})
    return settings.check(needs_data=needs_data)


def coerce(item: dataclasses.Field, value: Any) -> Any:
    """`value` as the option's type where it says one unambiguously, else `value` unchanged for the check to refuse."""
    kind = option_kind(item)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float):
            try:
                value = float(text)
            except ValueError:
                return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if kind is float and isinstance(value, int) else value


def write_config(path: Path, settings: TrainSettings, **more: Any) -> None:
    """Write `config.yaml`: every setting, then `more` (derived values, for reading only)."""
    import yaml

    values = {item.name: getattr(settings, item.name) for item in fields(settings) if item.name != "resume"}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if more:
        text += "# derived, for information\n" + yaml.safe_dump({"derived": more}, sort_keys=False, allow_unicode=True)
    write_text(path, text)


RELEASED_NAMES = {"img_size": "image_size", "max_epoch": "epochs", "max_epochs": "epochs", "workers": "num_workers"}
"""Spellings seen in configurations of the authors' projects, and ours. Anything else unknown is kept aside."""


def read_config(path: Path) -> tuple[TrainSettings, dict[str, Any]]:
    """Settings and left-over entries of a `config.yaml`, ours or one written by the released code.

    Only plain YAML is read: nothing in the file is executed. Numbers written as text (`lr: 9e-05` is text in YAML) are
    read as numbers. Paths in the file are returned as they stand and are not required to exist.
    Raises UserError where the file is missing, is not a mapping, or holds a value that cannot be.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {path.parent} is not an experiment folder") from None
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable YAML ({str(error)[:200]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a list of settings")
    known = {item.name: item for item in fields(TrainSettings)}
    values, left_over = {}, {}
    for name, value in content.items():
        ours = RELEASED_NAMES.get(name, name)
        if ours in known and isinstance(value, (list, dict, set, tuple, bytes)):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, not a single value")
        if ours in known:
            values[ours] = coerce(known[ours], value)
        else:
            left_over[name] = value
    if not isinstance(values.get("data"), str) or not values["data"]:
        raise UserError(f"{path} does not say which data it was trained on (data: ...)")
    settings = TrainSettings(**values)
    for item in fields(settings):
        try:
            _check_value(item, getattr(settings, item.name))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return settings, left_over
