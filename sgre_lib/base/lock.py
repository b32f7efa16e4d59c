"""The lock on a folder that is being written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike, purpose: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this thread alone, of all threads and processes on machines that share its disk.

    Where another one has it: UserError that names its process and purpose, or (wait) until it is free. The system
    frees the lock of a process that was killed at once: processes forked meanwhile close what they inherit of it.
    """
    path = Path(folder) / ".lock"

    def sign(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} ({purpose})\n".encode())

    os.umask(mask := os.umask(0))
    lock = FileLock(path, timeout=-1 if wait else 0, mode=0o666 & ~mask, thread_local=False, on_acquired=sign)
    try:
        lock.acquire()
    except Timeout:
        holder = ""
        with contextlib.suppress(OSError):  # Windows lets nobody read it
            holder = path.read_text(encoding="utf-8").strip()
        raise UserError(f"{folder} is in use by {holder or 'another process'}") from None
    try:
        yield
    finally:
        lock.release()
