"""What the person watching sees of a run: the bar of an epoch, the time that is left, the log."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

LOG = logging.getLogger("sgre_lib.training")
"""The log of training. Until `log_to` gives it somewhere to go, which process 0 does, what it is told goes nowhere."""


def epoch_bar(epoch: int, epochs: int, done: int, images: int, *, shown: bool) -> tqdm:
    """The bar of an epoch (from 1) over its images, of which `done` are through."""
    text = f"epoch {epoch}/{epochs}"
    return tqdm(total=images, initial=min(done, images), desc=text, unit="image", leave=False, disable=not shown)


def move_bar(bar: tqdm, done: int, loss_sum: float, time_left: str) -> None:
    """Set a bar to `done` images; loss_sum: of them all."""
    done = min(done, bar.total)
    bar.set_postfix_str(f"loss {loss_sum / max(1, done):.2f}, run {time_left} left", refresh=False)
    bar.update(done - bar.n)


def describe_time_left(batches: int, *paces: float) -> str:
    """How long so many batches will take, in words, at the slowest of the paces (seconds a batch)."""
    minutes = round(batches * max(paces) / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the log of training to a file and, without disturbing progress bars, to the terminal."""

    class Terminal(logging.Handler):
        def emit(self, record):
            tqdm.write(record.getMessage())

    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.handleError = lambda record: None  # a full disk is reported once, by the checkpoint that it stops
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = (to_file, Terminal())
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    for handler in handlers:
        LOG.addHandler(handler)
    try:
        yield
    except BaseException as error:
        LOG.error("ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
