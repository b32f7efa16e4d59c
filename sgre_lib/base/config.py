"""`config.yaml` of an experiment: written by training, read by everything that opens the folder."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .errors import UserError
from .files import write_text
from .settings import MachineSettings, Options, TrainSettings

RELEASED_NAMES = {"img_size": "image_size", "max_epoch": "epochs", "max_epochs": "epochs", "workers": "num_workers"}
"""Spellings seen in configurations of the authors' projects, and ours. Anything else unknown is kept aside."""


class Config(NamedTuple):
    """What a config.yaml says. more: its other entries, among them `derived`, for information."""

    settings: TrainSettings
    machine: MachineSettings
    more: dict[str, Any]


def write_config(path: Path, settings: TrainSettings, machine: MachineSettings, **derived: Any) -> None:
    """Write `config.yaml`: every setting of the training, then `machine:`, then `derived:`, for reading only."""

    def dump(content: dict) -> str:
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    text = dump(vars(settings)) + "# what computed it\n" + dump({"machine": vars(machine)})
    write_text(path, text + "# derived, for information\n" + dump({"derived": derived}))


def read_config(path: Path) -> Config:
    """Settings and left-over entries of a `config.yaml`, ours or one written by the released code.

    Only plain YAML is read: nothing in the file is executed. Numbers written as text (`lr: 9e-05` is text in YAML) are
    read as numbers. Names of the machine may also stand beside the others, as in folders from before they were told
    apart. Paths in the file are returned as they stand and are not required to exist.
    Raises UserError where the file is missing, is not a mapping, or holds a value that cannot be.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {path.parent} is not an experiment folder") from None
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable YAML ({str(error)[:200]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a list of settings")
    own = content.pop("machine", {})
    entries = {RELEASED_NAMES.get(name, name): value for name, value in content.items()}
    machine = _take(MachineSettings(), entries | (own if isinstance(own, dict) else {}), path)
    settings = _take(TrainSettings(), entries, path)
    if not isinstance(entries.get("data"), str) or not settings.data:
        raise UserError(f"{path} does not say which data it was trained on (data: ...)")
    known = {*vars(settings), *vars(machine)}
    return Config(settings, machine, {name: value for name, value in entries.items() if name not in known})


def _take(defaults: Options, entries: dict[str, Any], path: Path) -> Options:
    """Settings from those of the entries that are theirs."""
    values = {name: entries[name] for name in vars(defaults) if name in entries}
    for name, value in values.items():
        if isinstance(value, (list, dict, set, tuple, bytes)):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, not a single value")
    try:
        return Options.check(defaults.replace(**values))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
