"""Queue and memory bank against numpy, and the same on more devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.methods import memory


def test_queue_evicts_the_oldest(rng):
    queue = memory.init_queue(jax.random.key(0), 12, 4, 3)
    np.testing.assert_allclose(jnp.linalg.norm(queue['keys'], axis=-1), 1.0, rtol=1e-6)
    expected = np.array(queue['keys'])
    for step in range(5):
        keys = rng.normal(size=(4, 3)).astype(np.float32)
        queue = memory.enqueue(queue, jnp.asarray(keys))
        expected[step % 3] = keys
        np.testing.assert_array_equal(queue['keys'], expected)
        assert int(queue['slot']) == (step + 1) % 3


def test_queue_must_hold_whole_batches():
    with pytest.raises(ValueError, match='queue_size 10 is not a positive multiple of the batch size 4 -> use 8'):
        memory.init_queue(jax.random.key(0), 10, 4, 3)


@pytest.mark.parametrize('n', [1, 2, 8])
def test_bank_on_more_devices(rng, n: int):
    bank = memory.init_bank(jax.random.key(0), 1500, 4)
    assert bank.shape == (2048, 4) and float(jnp.abs(bank).max()) <= (4 / 3) ** -0.5
    index = jnp.asarray(rng.choice(1500, 16, replace=False), jnp.int32)
    v = rng.normal(size=(16, 4)).astype(np.float32)
    v /= np.linalg.norm(v, axis=1, keepdims=True)

    def local(bank, index, v):
        read = memory.read_bank(bank, index, 'data')
        mean = memory.mean_row(bank, 1500, 'data')
        return (read, memory.update_bank(bank, index, v, 0.5, 'data')), mean

    run = find_devices(count=n).run(local, (P('data'),) * 3, (P('data'), P()))
    (read, updated), mean = run(bank, index, v)
    np.testing.assert_allclose(mean, np.mean(bank[:1500], axis=0), rtol=1e-4, atol=1e-6)  # no padded row
    np.testing.assert_array_equal(read, bank[index])
    expected = np.array(bank)
    for i, f in zip(np.asarray(index), v, strict=True):
        row = 0.5 * expected[i] + 0.5 * f
        expected[i] = row / np.linalg.norm(row)
    np.testing.assert_allclose(updated, expected, rtol=1e-6, atol=1e-7)
