"""The order of the data: pure, a permutation, the same by batch and by chunk."""

import numpy as np
import pytest

from contrastive_jax.data import sampler
from contrastive_jax.errors import DataError


@pytest.mark.parametrize('n', [1, 2, 7, 100])
def test_epoch_order_is_a_pure_permutation(n: int) -> None:
    order = sampler.epoch_order(3, 5, n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    sampler.epoch_order.cache_clear()
    np.testing.assert_array_equal(sampler.epoch_order(3, 5, n), order)


def test_epochs_and_seeds_differ() -> None:
    orders = {sampler.epoch_order(seed, epoch, 100).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_cached_order_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match='read-only'):
        sampler.batch_index(0, 0, 10, 5)[0] = 1


@pytest.mark.parametrize(('n', 'batch_size'), [(12, 4), (13, 4), (5, 5), (67, 16)])
def test_each_example_at_most_once_an_epoch(n: int, batch_size: int) -> None:
    steps = n // batch_size
    for epoch in range(3):
        batches = [sampler.batch_index(1, epoch * steps + step, n, batch_size) for step in range(steps)]
        seen = np.concatenate(batches)
        assert len(np.unique(seen)) == steps * batch_size == len(seen)
        # The definition: consecutive slices of the epoch's order, the rest dropped.
        np.testing.assert_array_equal(seen, sampler.epoch_order(1, epoch, n)[: steps * batch_size])


def test_chunk_is_the_batches_and_crosses_epochs() -> None:
    chunk = sampler.chunk_index(9, 2, 11, 13, 4)
    assert chunk.dtype == np.int32 and chunk.shape == (9, 4)
    for row, step in enumerate(range(2, 11)):
        np.testing.assert_array_equal(chunk[row], sampler.batch_index(9, step, 13, 4))


def test_fewer_images_than_the_batch() -> None:
    with pytest.raises(DataError, match=r'8 images are fewer than batch_size 16 -> .* at most 8') as raised:
        sampler.batch_index(0, 0, 8, 16)
    assert raised.value.exit_code == 2
