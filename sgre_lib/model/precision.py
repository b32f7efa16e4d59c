"""Mixed precision: which number type a block of the model computes in."""

import torch


def autocast(device: torch.device, amp: bool) -> torch.autocast:
    """Mixed precision for a block: bfloat16 where the device computes in it, else (on CUDA) float16."""
    dtype = torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtype = torch.float16
    return torch.autocast(device.type, dtype=dtype, enabled=amp)
