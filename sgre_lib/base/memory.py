"""How this process treats the memory that it frees."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names for two of its options, from malloc.h."""

KEPT_BYTES = (1 << 31) - 1

LARGEST_BLOCK = 1 << 30


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next step, and say whether it does (Linux with glibc).

    By default it hands every large block back to the kernel, which then clears it page by page for the next tensor of
    the same size: on a CPU that took 40 % of a training step of ResNet-101 at 448 pixels. Left alone where the user has
    set MALLOC_... variables.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
