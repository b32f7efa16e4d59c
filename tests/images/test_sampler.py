"""Protects the order of training images: it follows from seed and epoch alone, with any number of processes."""

from __future__ import annotations

from sgre_lib.images.sampler import TrainingBatches


def test_the_order_of_an_epoch_is_the_stored_one():
    batches = TrainingBatches(10, 4, seed=0)
    assert len(batches) == 3
    first = [[index for _, index in keys] for keys in batches]
    assert first == [[9, 1, 3, 8], [7, 6, 0, 4], [2, 5]]
    batches.set_epoch(2)
    assert {epoch for keys in batches for epoch, _ in keys} == {2}
    assert [[index for _, index in keys] for keys in batches] != first
    assert [[index for _, index in keys] for keys in TrainingBatches(10, 4, seed=1)] != first


def test_a_stopped_epoch_goes_on_where_it_was():
    whole, rest = TrainingBatches(10, 4, 0), TrainingBatches(10, 4, 0)
    rest.set_epoch(1, first=2)
    assert len(rest) == 1
    assert list(rest) == list(whole)[2:]


def test_a_process_without_an_image_is_given_one_that_does_not_count():
    shares = [TrainingBatches(5, 4, 0, rank, world=2) for rank in range(2)]
    last = [list(batches)[-1] for batches in shares]
    assert [batches.share(1) for batches in shares] == [0, 1]
    assert last[0] == last[1]
    assert [batches.global_size(1) for batches in shares] == [1, 1]
