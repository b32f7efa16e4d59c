"""Every option of a training run, once: its default, its meaning and its check.

`TrainSettings` decides the result; `MachineSettings` says what computes it, and changes no number but by rounding. The
command line, the notebooks, the tables and `config.yaml` (`base/config.py`) all use these names.
"""

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import gt, le, lt
from pathlib import Path
from typing import Any, TypeVar

from .errors import UserError
from .files import read_toml


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of settings.

    more: `choices`; `low`/`high` (inclusive) or `above` (exclusive) bounds; `kind`, where the default does not show it;
    `also`, further flags on the command line: a short one, or the release's name.
    """
    return field(default=default, metadata={"help": help, **more})


Own = TypeVar("Own", bound="Options")


class Options:
    """What both kinds of settings can do."""

    def check(self: Own) -> Own:
        """These settings, or UserError naming the first option that cannot be."""
        for item in fields(self):
            check_value(item, getattr(self, item.name))
        return self

    def replace(self: Own, **changes: Any) -> Own:
        """A copy with some settings changed; text such as "9e-05" is read as the number it says. Not checked.

        Raises UserError for an unknown name, with the nearest known one.
        """
        known = {item.name: item for item in fields(self)}
        refuse_unknown(changes, known)
        return dataclasses.replace(self, **{name: coerce(known[name], value) for name, value in changes.items()})

    def changed(self) -> dict[str, Any]:
        """The settings that are not at their default, by name."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) != item.default}

    def arguments(self) -> list[str]:
        """The command-line options that say these settings, leaving out defaults."""
        return option_words(self.changed())


@dataclass(frozen=True)
class TrainSettings(Options):
    """What decides the result of a training run. Defaults are the release's, except where it says "ours"."""

    # What is trained
    data: str = option("", "dataset name (data/<name>) or the path of a prepared folder", kind=str)
    model: str = option(
        "mlic", "mlic: SGRE; gap, ours: global average pooling, a linear layer", choices=("mlic", "gap")
    )
    arch: str = option("resnet101", "backbone: a name of the release or any timm model", kind=str)
    pretrained: bool = option(True, "start from ImageNet weights (timm downloads them once)")
    backbone_weights: str | None = option(None, "local file of backbone weights, instead of a download", kind=str)
    pretrained_model: str | None = option(
        None, "checkpoint of this method, ours or released, to start from: all but its classifiers", kind=str
    )
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
    branches: str = option("both", "ours, for the ablation: the branches it has", choices=("both", "patch", "object"))
    # The loss
    loss: str = option("asl", "asymmetric loss or mean binary cross-entropy", choices=("asl", "bce"))
    lamda: float = option(1.0, "weight of the object branch's loss", low=0)
    gamma_neg: float = option(2.0, "asl: focusing of negatives", low=0)
    gamma_pos: float = option(0.0, "asl: focusing of positives", low=0)
    clip: float = option(0.0, "asl: probability margin of negatives", low=0, high=1)
    # The recipe
    epochs: int = option(60, "passes over the training images", low=1, also=("--max-epochs",))
    batch_size: int = option(64, "images a step, over all processes together", low=1)
    optimizer: str = option(
        "AdamW", "Adam has coupled weight decay, SGD no momentum of its own", choices=("AdamW", "Adam", "SGD")
    )
    lr: float = option(1e-4, "learning rate, the highest of the schedule", above=0)
    weight_decay: float = option(1e-4, "weight decay", low=0)
    true_weight_decay: bool = option(False, "exempt biases and other 1-D parameters from weight decay", also=("-twd",))
    lr_scheduler: str = option(
        "OneCycleLR",
        "a rise and a fall over all steps; a tenth every --step-size epochs; a tenth where the EMA mAP stays",
        choices=("OneCycleLR", "StepLR", "ReduceLROnPlateau"),
    )
    pct_start: float = option(0.2, "OneCycleLR: part of the steps in which the learning rate rises", low=0, high=1)
    step_size: int | None = option(None, "ours: StepLR: epochs between two steps, needed with it", kind=int, low=1)
    ema_decay: float = option(0.9997, "decay of the moving average of the weights, a step", low=0, high=1)
    image_size: int = option(448, "side of the square image, pixels", low=8, high=4096, also=("--img-size",))
    orid_norm: bool = option(False, "do not normalise by ImageNet's mean and deviation")
    augment: str = option(
        "full", "full is the release's; flip and none are ours, for small runs", choices=("full", "flip", "none")
    )
    estop: bool = option(False, "stop after 3 epochs without a better EMA mAP")
    threshold: float = option(0.5, "for evaluate: score from which a label is predicted", low=0, high=1)
    topk: int = option(3, "for evaluate: k of the top-k metrics and of prediction.txt", low=1)
    seed: int = option(0, "of initial weights, batch order, augmentation and dropout", low=0)
    # How it is computed
    amp: bool = option(False, "mixed precision: bfloat16 where the device has it, else float16 with a kept scaler")
    channels_last: bool = option(False, "channels-last memory order: equal to rounding, convolutions often faster")
    compile: bool = option(False, "compile the model (torch.compile); where that fails it runs as it is and says so")
    deterministic: bool = option(False, "CUDA too gives the same bits in every run; slower")
    accumulate: int = option(
        1, "parts of a batch that go through the model one after another, for small cards; same batch, same schedule",
        low=1,
    )  # fmt: skip

    def check(self, *, needs_data: bool = True) -> "TrainSettings":
        """These settings, or UserError naming the first option that cannot be. needs_data: `data` must be given."""
        super().check()
        if needs_data and not self.data:
            raise UserError("--data is missing: a dataset's name or the path of a prepared folder")
        if self.lr_scheduler == "StepLR" and self.step_size is None:
            raise UserError("--lr-scheduler StepLR needs --step-size, epochs between two steps")
        if self.batch_size % self.accumulate:
            raise UserError(f"--batch-size {self.batch_size} is not a multiple of --accumulate {self.accumulate}")
        return self


@dataclass(frozen=True)
class MachineSettings(Options):
    """What computes a training run. Any of it may differ when a run is resumed."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", kind=str)
    processes: int = option(1, "processes to start on this machine, one a GPU", low=1)
    num_workers: int = option(-1, "image loading processes a training process; -1: one a core, at most 8", low=-1)
    cache: str = option(
        "none",
        "keep resized images after their first reading, in memory or on disk (in SGRE_CACHE, else ~/.cache/sgre)",
        choices=("none", "memory", "disk"),
    )
    data_root: str | None = option(None, "folder of raw datasets; default SGRE_DATA_ROOT, else data/raw", kind=str)
    save_minutes: float = option(10.0, "minutes between saves within an epoch; each epoch's end saves too", above=0)
    tensorboard: bool = option(False, "also write TensorBoard events into the experiment folder")


def make_settings(*, needs_data: bool = True, **values: Any) -> TrainSettings:
    """Checked `TrainSettings` from keyword arguments; text such as "9e-05" is read as the number it says.

    Raises UserError for an unknown name (with the nearest known one) and for a value out of its range.
    """
    return TrainSettings().replace(**values).check(needs_data=needs_data)


def make_machine(**values: Any) -> MachineSettings:
    """Checked `MachineSettings` from keyword arguments, as `make_settings` does it."""
    return MachineSettings().replace(**values).check()


def read_machine(path: str | os.PathLike) -> MachineSettings:
    """`MachineSettings` from a TOML file of their names. Raises UserError, naming the file, for what cannot be."""
    try:
        return make_machine(**read_toml(Path(path).expanduser(), "machine file"))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def split_settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that belong to `TrainSettings` and those that belong to `MachineSettings`, by name and of their types.

    Raises UserError for a name of neither, with the nearest known one.
    """
    kinds = [{item.name: item for item in fields(kind)} for kind in (TrainSettings, MachineSettings)]
    refuse_unknown(values, kinds[0] | kinds[1])
    of_training, of_machine = (
        {name: coerce(known[name], value) for name, value in values.items() if name in known} for known in kinds
    )
    return of_training, of_machine


def check_share(settings: TrainSettings, processes: int) -> None:
    """UserError where a batch does not divide by the processes and the parts that each of them takes."""
    if settings.batch_size % (processes * settings.accumulate):
        parts = f" x --accumulate {settings.accumulate}" if settings.accumulate > 1 else ""
        raise UserError(f"--batch-size {settings.batch_size} is not a multiple of the {processes} processes{parts}")


def check_limits(*, threshold: float | None = None, **counts: int | None) -> None:
    """UserError, naming the option, for a threshold outside 0..1 or a count below 1; None is one that is not given."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold} is not between 0 and 1")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{option_flag(name)} {count} is below 1")


def refuse_unknown(names, known) -> None:
    """UserError for the first name that is none of the known ones, with the nearest of them."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UserError(f"unknown setting {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))


def option_flag(name: str) -> str:
    """How the command line spells a setting."""
    return "--" + name.replace("_", "-")


def option_words(values: Mapping[str, Any]) -> list[str]:
    """The words of a command that say these settings."""
    words: list[str] = []
    for name, value in values.items():
        flag = option_flag(name if value is not False else f"no_{name}")
        words += [flag] if isinstance(value, bool) else [flag, str(value)]
    return words


def check_value(item: dataclasses.Field, value: Any) -> None:
    """UserError where a value cannot be that of an option: its type, its choices, its bounds."""
    rules, flag, kind = item.metadata, option_flag(item.name), option_kind(item)
    if value is None and item.default is None:
        return
    right = isinstance(value, (int, float) if kind in (int, float) else kind)
    if not right or (isinstance(value, bool) and kind is not bool) or (kind is int and value % 1):
        raise UserError(f"{flag} {value!r} is not {KINDS[kind]}")
    if value != value:
        raise UserError(f"{flag} is not a number")
    if "choices" in rules and value not in rules["choices"]:
        raise UserError(f"{flag} {value}: choose from {', '.join(map(str, rules['choices']))}")
    for rule, (breaks, words) in BOUNDS.items():
        if rule in rules and breaks(value, rules[rule]):
            raise UserError(f"{flag} {value} {words} {rules[rule]}")


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
BOUNDS = {"low": (lt, "is below"), "high": (gt, "is above"), "above": (le, "must be above")}


def option_kind(item: dataclasses.Field) -> type:
    """The Python type of an option: bool, int, float or str."""
    return item.metadata.get("kind") or type(item.default)


def coerce(item: dataclasses.Field, value: Any) -> Any:
    """`value` as the option's type where it says one unambiguously, else `value` unchanged for the check to refuse."""
    kind = option_kind(item)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is bool and isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    if isinstance(value, {int: (str, float), float: (str, float, int)}.get(kind, ())) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            number = float(value)
            return number if kind is float else int(number) if number.is_integer() else number
    return value
