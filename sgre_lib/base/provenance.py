"""Where a number comes from: the code's version, the packages' versions, the device."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from typing import TYPE_CHECKING

from .places import PROJECT_ROOT

if TYPE_CHECKING:
    import torch


def code_version() -> str:
    """The commit of the checkout, with `+changes` where tracked files differ from it; `unknown` outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def package_versions(names: Iterable[str] = ("torch", "torchvision", "timm", "numpy", "pillow")) -> dict[str, str]:
    """Python's version and the installed version of each distribution, or `not installed`."""

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def describe_origin(data: str, data_fingerprint: str, device: torch.device) -> dict:
    """What a file of results says of where they come from."""
    from .device import describe_device  # needs torch, which reading results does not

    origin = {"data": data, "data_fingerprint": data_fingerprint, "code_version": code_version()}
    return origin | {"versions": package_versions(), "device": describe_device(device)}


def describe_environment() -> str:
    """Three lines for the top of a notebook: versions, device, commit."""
    from .device import choose_device, describe_device

    versions = "  ".join(f"{name} {version}" for name, version in package_versions().items())
    return f"{versions}\ndevice {describe_device(choose_device('auto'))}\nsgre_lib at commit {code_version()}"
