"""The order of training images: batches that only (seed, epoch) decides, shared out over processes."""

from collections.abc import Iterator

import numpy as np


class TrainingBatches:
    """A batch sampler: one process's share of every global batch of an epoch, as (epoch, index) keys.

    The order is a permutation drawn from (seed, epoch); the last, partial batch is kept. A global batch is cut into
    `world` contiguous shares as even as can be. A process that gets none of a small last batch is given its first
    image, which the trainer weighs by 0, since every process must take part in every step.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.count, self.batch_size, self.seed, self.rank, self.world = count, batch_size, seed, rank, world
        self.batches_an_epoch = -(-count // batch_size)
        self.set_epoch(1)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch (from 1), and the batch to begin with: above 0 where a stopped epoch goes on."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.batches_an_epoch - self.first

    def global_size(self, batch: int) -> int:
        """Images in a batch, over all processes."""
        return min(self.batch_size, self.count - batch * self.batch_size)

    def share(self, batch: int) -> int:
        """Images of a batch that belong to this process; 0 where the one it is given must not count."""
        size = self.global_size(batch)
        return size * (self.rank + 1) // self.world - size * self.rank // self.world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        for batch in range(self.first, self.batches_an_epoch):
            start, size = batch * self.batch_size, self.global_size(batch)
            begin = start + size * self.rank // self.world
            end = start + size * (self.rank + 1) // self.world
            yield [(self.epoch, int(i)) for i in (order[begin:end] if end > begin else order[start : start + 1])]
