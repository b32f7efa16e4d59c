"""When a run stops or saves before its end: signals, what the processes agree on, early stopping."""

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from ..base.process import handling_signals
from .processes import Processes

PATIENCE = 3
"""Epochs without a better EMA mAP after which `--estop` stops."""

GO, SAVE, STOP = 0, 1, 2
"""What the processes agree on after a batch; the highest wish counts."""


class Stopping:
    """What one process wishes after a batch (go on, save, stop), and what all of them agree on."""

    def __init__(self, processes: Processes, save_minutes: float):
        self.processes, self.save_minutes = processes, save_minutes
        self.asked = False
        self.saved_at = time.monotonic()

    def note_save(self) -> None:
        """The state was saved just now."""
        self.saved_at = time.monotonic()

    def agree(self) -> int:
        """GO, SAVE or STOP: the highest wish of all processes. Collective."""
        # Process 0's clock alone decides, so that the processes agree.
        is_due = self.processes.is_main and time.monotonic() - self.saved_at > 60 * self.save_minutes
        return self.processes.highest(STOP if self.asked else SAVE if is_due else GO)

    def catching_signals(self) -> AbstractContextManager[None]:
        """Turn Ctrl-C and SIGTERM into a request to save and stop; a second Ctrl-C stops at once."""

        def ask(number, frame):
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True

        return handling_signals(ask, signal.SIGINT, signal.SIGTERM)


def is_exhausted(history: Sequence[Mapping[str, float]], patience: int = PATIENCE) -> bool:
    """Whether the last `patience` epochs of a history brought no EMA mAP above the best before them."""
    values = [row["ema_mAP"] for row in history]
    return len(values) > patience and len(values) - 1 - values.index(max(values)) >= patience
