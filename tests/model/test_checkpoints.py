"""Protects the writing of checkpoints: one that could not be written leaves the one before, and says why."""

from __future__ import annotations

import sys

import pytest
import torch

from sgre_lib.model.checkpoints import read_checkpoint, write_checkpoint


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files")
def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path):
    import resource
    import signal

    path = tmp_path / "last.pth"
    write_checkpoint(path, {"epoch": torch.tensor(1)})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_checkpoint(path, {"epoch": torch.tensor(2), "model": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]


def test_the_old_checkpoint_is_kept_where_asked(tmp_path):
    path, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for epoch in (1, 2, 3):
        write_checkpoint(path, {"epoch": torch.tensor(epoch)}, keep=previous)
    assert (read_checkpoint(previous)["epoch"], read_checkpoint(path)["epoch"]) == (2, 3)
