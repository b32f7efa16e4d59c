"""The process that computes: how threads wait, what the C library does with freed memory, who handles its signals.

All that belongs to the host process, so `import sgre_lib` sets none of it. The command line does for its own process; a
program that uses the library sets it where it starts, or is started with `HOST_ENVIRONMENT`.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

KEPT_BYTES = (1 << 31) - 1
LARGEST_BLOCK = 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers for two of its options, from malloc.h."""

HOST_ENVIRONMENT: dict[str, str] = {
    # OpenMP's threads wait by spinning unless told otherwise. On a small machine they then take the core from the very
    # process that they wait for (an image loader, another row): measured on 2 cores, ten times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # By default glibc hands every large block back to the kernel, which clears it page by page for the next tensor of
    # the same size: on a CPU that took 40 % of a training step of ResNet-101 at 448 pixels.
    "MALLOC_MMAP_THRESHOLD_": str(LARGEST_BLOCK),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
}
"""Environment variables to start a process with that trains or scores. They change its speed and no number."""


def apply_host_environment() -> None:
    """Give this process, and those that it starts, what `HOST_ENVIRONMENT` says; variables the user has set stay.

    Call it before torch is imported, which reads OMP_WAIT_POLICY once.
    """
    user_decides = any(name.startswith("MALLOC_") for name in os.environ)
    for name, value in HOST_ENVIRONMENT.items():
        if not (user_decides and name.startswith("MALLOC_")):
            os.environ.setdefault(name, value)
    if not user_decides:
        keep_freed_memory()  # glibc reads its variables when a process starts: this one already has


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next step, from now on, and say whether it does (Linux with glibc)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


@contextlib.contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """Give these signals to `handler` inside the block. In a thread, which may handle none, they are left alone."""
    may_handle = threading.current_thread() is threading.main_thread()
    old = {number: signal.signal(number, handler) for number in numbers if may_handle}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)
