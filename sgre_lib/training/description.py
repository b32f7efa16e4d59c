"""What a run says of itself: config.yaml and its companions, and the log."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from tqdm import tqdm

from ..base.config import write_config
from ..base.files import write_array, write_text
from ..base.provenance import code_version, package_versions
from ..model.build import count_parameters

LOG = logging.getLogger("sgre_lib.training")


def write_description(folder, settings, machine, prepared, embeddings, model, processes) -> None:
    """config.yaml, label.txt and label_embeddings.npy, and the same once for the person watching."""
    counts = count_parameters(model)
    train_images = len(prepared.read_list("train")[0])
    derived = {
        "train_images": train_images,
        "test_images": len(prepared.read_list("test")[0]),
        "labels": len(prepared.labels),
        "steps_an_epoch": -(-train_images // settings.batch_size),
        "grid": list(model.head.grid),
        "parameters": counts,
        "processes": processes.world,
        "batch_a_process": settings.batch_size // processes.world,
        "images_at_a_time": settings.batch_size // processes.world // settings.accumulate,
        "device": str(processes.device),
        "data_fingerprint": prepared.fingerprint(),
        "code_version": code_version(),
        "versions": package_versions(),
    }
    write_config(folder / "config.yaml", settings, machine, **derived)
    write_text(folder / "label.txt", "".join(f"{label}\n" for label in prepared.labels))
    if embeddings is not None:
        write_array(folder / "label_embeddings.npy", embeddings)
    LOG.info("experiment %s", folder)
    if model.patches.prefix_tokens and model.patches.rm_cls and not settings.rm_cls:
        LOG.info("--pos: the class token of %s is removed, the position map has no place for it", settings.arch)
    LOG.info("settings %s", " ".join([*settings.arguments(), *machine.arguments()]))
    LOG.info(
        "%d training and %d test images, %d labels; %d steps an epoch of %d images; %.2f M parameters; grid %dx%d; %s",
        derived["train_images"], derived["test_images"], derived["labels"], derived["steps_an_epoch"],
        settings.batch_size, counts["total"] / 1e6, *model.head.grid, processes.device,
    )  # fmt: skip


@contextlib.contextmanager
def log_to(path: Path):
    """Send this package's log to a file and, without disturbing progress bars, to the terminal."""

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
