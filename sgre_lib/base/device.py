"""The device that computes: chosen, and in words."""

import torch

from .errors import UserError


def describe_device(device: torch.device) -> str:
    """A torch device in words: the GPU's name, or the CPU with its threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises UserError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device {device}: choose auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {device}: PyTorch sees no Apple GPU here")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {device}: PyTorch sees no CUDA device here")
        chosen = torch.device("cuda", chosen.index if chosen.index is not None else local_rank)
        if chosen.index >= torch.cuda.device_count():
            raise UserError(f"--device {chosen}: there are {torch.cuda.device_count()} CUDA devices")
    return chosen
