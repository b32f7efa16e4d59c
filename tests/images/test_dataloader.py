"""Protects the way of a photo to the device: the floats of the transform to the last bit, drawn alike by every worker."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sgre_lib.base.errors import LoaderDied
from sgre_lib.datasets.prepared import Split
from sgre_lib.images.dataloader import PhotoDataset, move_pixels, naming_dead_loaders, worker_count
from sgre_lib.images.reading import read_photo
from sgre_lib.images.transforms import PhotoTransform

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_device_makes_the_floats_of_the_transform(device, normalise, channels_last):
    values = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    values[0, :8] = np.arange(256, dtype=np.uint8).reshape(8, 32, 1)  # every value in every channel
    expected = np.stack([PhotoTransform(32, normalise).to_array(Image.fromarray(value)) for value in values])
    images = move_pixels(torch.from_numpy(values), torch.device(device), normalise, channels_last=channels_last)
    assert images.dtype == torch.float32
    assert np.array_equal(images.cpu().numpy(), expected)
    assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_a_dataset_gives_bytes_that_become_the_transforms_floats(tmp_path):
    photo = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    split = Split(["photo.png"] * 5, [tmp_path / "photo.png"] * 5, np.eye(5, dtype=np.uint8))
    transform = PhotoTransform(24, augment="full")
    dataset = PhotoDataset(split, transform, seed=5)
    pixels, _, index = dataset[3, 4]
    assert (pixels.dtype, tuple(pixels.shape), index) == (torch.uint8, (24, 24, 3), 4)
    expected = transform(read_photo(split.paths[4]), np.random.default_rng((5, 3, 4)))
    assert np.array_equal(move_pixels(pixels[None], CPU, True)[0].numpy(), expected)


def test_workers_as_asked_or_the_cores_shared_out(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(12), raising=False)
    assert [worker_count(0), worker_count(3, 4)] == [0, 3]
    assert [worker_count(-1, processes) for processes in (1, 2, 4, 16)] == [8, 6, 3, 1]


def test_only_a_dead_worker_is_named():
    with pytest.raises(LoaderDied, match="--num-workers"), naming_dead_loaders():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="shapes"), naming_dead_loaders():
        raise RuntimeError("shapes")
