"""Protects the cache of resized images: pixels equal to the last bit with and without it, never stale, room checked."""

from __future__ import annotations

import os
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
from conftest import TINY, run_sgre
from PIL import Image

from sgre_lib import UserError, train
from sgre_lib.datasets.prepared import PreparedDataset, Split
from sgre_lib.images.cache import check_cache_room, open_cache
from sgre_lib.images.dataloader import PhotoDataset, make_loader
from sgre_lib.images.sampler import TrainingBatches
from sgre_lib.images.transforms import PhotoTransform

CPU = torch.device("cpu")
KINDS = ("none", "memory", "disk")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Every test has a disk cache of its own."""
    monkeypatch.setenv("SGRE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def split(tmp_path):
    """Six photos of other sizes and modes."""
    rng = np.random.default_rng(0)
    for number in range(6):
        shape = (40 + 7 * number, 60) if number == 3 else (40 + 7 * number, 60, 3)
        Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    names = [f"{number}.png" for number in range(6)]
    return Split(names, [tmp_path / name for name in names], np.eye(6, dtype=np.uint8))


def read_epochs(dataset: PhotoDataset, workers: int = 0, epochs: int = 2) -> torch.Tensor:
    """Every batch of some epochs, one after the other."""
    batches = TrainingBatches(len(dataset), 4, seed=1)
    loader = make_loader(dataset, workers, CPU, batch_sampler=batches)
    found = []
    for epoch in range(1, epochs + 1):
        batches.set_epoch(epoch)
        found += [pixels for pixels, _, _ in loader]
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_images_are_those_of_the_files(split, kind, workers):
    plain = read_epochs(PhotoDataset(split, PhotoTransform(24, augment="full"), 1))
    cache = open_cache(kind, split.paths, 24)
    dataset = PhotoDataset(split, PhotoTransform(24, augment="full"), 1, cache)
    assert torch.equal(read_epochs(dataset, workers), plain)
    # What the loading processes stored is there for this one, and nothing is read again.
    for index in range(6):
        assert cache.read(index, lambda: pytest.fail("read again")).shape == (24, 24, 3)


def test_a_cache_reaches_spawned_processes(split):
    cache = open_cache("memory", split.paths, 24)
    dataset = PhotoDataset(split, PhotoTransform(24), cache=cache)
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, multiprocessing_context="spawn")
    read = torch.cat([pixels for pixels, _, _ in loader])
    assert all(
        torch.equal(torch.from_numpy(cache.read(i, lambda: pytest.fail("read again"))), read[i]) for i in range(6)
    )
    disk = open_cache("disk", split.paths, 24)
    disk.read(0, lambda: Image.new("RGB", (24, 24), "red"))
    assert pickle.loads(pickle.dumps(disk)).read(0, lambda: pytest.fail("read again"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_changed_photo_is_read_again(split, kind):
    dataset = PhotoDataset(split, PhotoTransform(24), cache=open_cache(kind, split.paths, 24))
    before = dataset[2][0]
    status = os.stat(split.paths[2])
    Image.new("RGB", (50, 50), "blue").save(split.paths[2])
    assert dataset[2][0][0, 0].tolist() == [0, 0, 255]
    assert not torch.equal(before, dataset[2][0])
    # Also where only the time of the file tells.
    Image.new("RGB", (50, 50), "cyan").save(split.paths[2])
    os.utime(split.paths[2], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert dataset[2][0][0, 0].tolist() == [0, 255, 255]


def test_a_half_filled_disk_cache_is_filled_up(split):
    """As a power cut leaves it: some images never stored, one with its stamp but without all its pixels."""
    first = PhotoDataset(split, PhotoTransform(24), cache=open_cache("disk", split.paths, 24))
    for index in (0, 1, 2):
        first[index]
    with open(first.cache.stores[0], "r+b") as file:
        file.seek(24 * 24 * 3 + 100)
        file.write(bytes(500))
    again = PhotoDataset(split, PhotoTransform(24), cache=open_cache("disk", split.paths, 24))
    plain = PhotoDataset(split, PhotoTransform(24))
    assert all(torch.equal(again[i][0], plain[i][0]) for i in range(6))
    read_again = []
    for index in range(6):
        open_cache("disk", split.paths, 24).read(index, lambda: read_again.append(1) or Image.new("RGB", (24, 24)))
    assert not read_again


def test_two_runs_may_fill_one_disk_cache_at_once(split):
    plain = read_epochs(PhotoDataset(split, PhotoTransform(24, augment="full"), 1), epochs=8)
    results = {}

    def run(name):
        results[name] = read_epochs(
            PhotoDataset(split, PhotoTransform(24, augment="full"), 1, open_cache("disk", split.paths, 24)), epochs=8
        )

    runs = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert torch.equal(results["a"], plain)
    assert torch.equal(results["b"], plain)


def test_size_and_photos_are_part_of_the_disk_caches_name(split):
    files = open_cache("disk", split.paths, 24).stores
    assert open_cache("disk", split.paths, 24).stores == files
    assert open_cache("disk", split.paths, 32).stores != files
    assert open_cache("disk", split.paths[:5], 24).stores != files


def test_a_broken_photo_is_named_with_a_cache_too(split):
    split.paths[1].write_bytes(b"no photo")
    split.paths[4].unlink()
    for kind in KINDS:
        dataset = PhotoDataset(split, PhotoTransform(24), cache=open_cache(kind, split.paths, 24))
        for index in (1, 4):
            with pytest.raises(UserError, match=split.names[index]):
                dataset[index]


def test_too_little_room_is_one_line_before_anything_is_written(split, cache_folder, tmp_path, monkeypatch):
    check_cache_room("none", [split.paths], 10**6)
    monkeypatch.setattr("sgre_lib.images.cache.free_memory", lambda: 5_000_000)
    with pytest.raises(UserError, match=r"^--cache memory needs 7\.2 MB for 2 processes, 5\.0 MB of memory are free$"):
        check_cache_room("memory", [split.paths], 448, copies=2)
    with pytest.raises(UserError, match=r"^--cache disk needs 18000\.0 GB, [\d.]+ GB in .*cache are free$"):
        check_cache_room("disk", [split.paths], 10**6)
    assert not cache_folder.exists()
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("SGRE_CACHE", str(file / "below"))
    with pytest.raises(UserError, match="--cache disk: nothing can be written in"):
        check_cache_room("disk", [split.paths], 24)


def test_training_refuses_a_cache_without_room(small_mini, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--data", small_mini, "--embed-type", "random", "--cache", "disk", "--exp-dir", tmp_path / "exp"]
    done = run_sgre("train", *arguments, env={"SGRE_CACHE": str(tmp_path / "file")})
    assert done.returncode == 2
    assert "--cache disk: nothing can be written in" in done.stderr
    assert not (tmp_path / "exp").exists()


def test_training_is_the_same_with_every_cache(small_mini, tmp_path):
    settings = {"data": str(small_mini), "embed_type": "random", **TINY, "augment": "full"}
    histories = {}
    for kind in KINDS:
        result = train(**settings, cache=kind, exp_dir=str(tmp_path / kind), progress=False)
        histories[kind] = [{**row, "seconds": 0} for row in result.history]
    assert histories["memory"] == histories["none"]
    assert histories["disk"] == histories["none"]
    # A run may be resumed with another cache: that is no other result.
    more = train(data=str(small_mini), exp_dir=str(tmp_path / "disk"), cache="memory", resume=True, progress=False)
    assert len(more.history) == len(histories["disk"])


def test_a_cache_of_another_dataset_is_not_taken(small_mini, tmp_path):
    """The same list at another place: other files, whatever their names."""
    prepared = PreparedDataset(small_mini)
    paths = prepared.split("test").paths
    copied = []
    for path in paths:
        copied.append(tmp_path / path.name)
        shutil.copy2(path, copied[-1])
    assert open_cache("disk", paths, 16).stores != open_cache("disk", copied, 16).stores
