"""The layouts of arrays on devices, and collectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices

TREE = {'a': np.arange(6.0).reshape(2, 3), 'queue': {'keys': np.arange(48.0).reshape(3, 8, 2), 'slot': np.int32(4)}}
SPECS = {'a': P(), 'queue': {'keys': P(None, 'data'), 'slot': P()}}


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
@pytest.mark.parametrize('n', [1, 4, 8])
def test_place_and_collect_are_inverse(mode, n):
    devices = find_devices(mode, n)
    placed = devices.place(TREE, SPECS)
    shard = placed['queue']['keys'].addressable_shards[0].data
    assert shard.size == TREE['queue']['keys'].size // n, 'each device holds only its shard of the queue'
    back = devices.collect(placed, SPECS)
    jax.tree.map(np.testing.assert_array_equal, back, TREE)


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
@pytest.mark.parametrize('n', [3, 5, 7])
def test_rows_that_the_devices_do_not_divide_end_with_zeros_there(mode, n):
    devices, tree, specs = find_devices(mode, n), {'bank': np.arange(1.0, 33).reshape(16, 2)}, {'bank': P('data')}
    for given in (tree, jax.tree.map(jnp.asarray, tree)):
        placed = devices.place(given, specs)
        parts = np.concatenate([np.asarray(s.data).reshape(-1, 2) for s in placed['bank'].addressable_shards])
        assert len(parts) % n == 0 and len(parts) < 16 + n
        np.testing.assert_array_equal(parts[:16], tree['bank'])
        assert not parts[16:].any()
        np.testing.assert_array_equal(devices.collect(placed, specs, tree)['bank'], tree['bank'])


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_run_and_fetch(mode):
    devices = find_devices(mode, 4)

    def step(state, rows):
        total = collectives.pmean(rows.sum(), 'data') + state['queue']['keys'].mean() * 0
        return {**state, 'a': state['a'] + total}, {'total': collectives.pmean(total, 'data')}

    run = devices.run(step, (SPECS, P('data')), (SPECS, P()), donate=(0,))
    rows = devices.place_rows(np.arange(8.0))
    state, metrics = run(devices.place(TREE, SPECS), rows)
    np.testing.assert_allclose(devices.fetch(metrics)['total'], 7.0)
    np.testing.assert_allclose(devices.collect(state, SPECS)['a'], TREE['a'] + 7.0)


def test_example_keys_do_not_depend_on_devices():
    key = jax.random.key(3)
    whole = collectives.example_keys(key, jnp.arange(8))

    def local():
        return jax.random.key_data(collectives.example_keys(key, collectives.positions(2, 'data')))

    mapped = jax.shard_map(local, mesh=find_devices(count=4).mesh, in_specs=(), out_specs=P('data'), check_vma=False)
    np.testing.assert_array_equal(jax.jit(mapped)(), jax.random.key_data(whole))


@pytest.mark.parametrize('n', [1, 4])
def test_rows_of_the_global_batch_in_reverse(n):
    devices = find_devices('jit', n)
    run = devices.run(lambda x: collectives.reversed_rows(x, 'data'), (P('data'),), P('data'))
    x = np.arange(16.0).reshape(8, 2)
    np.testing.assert_array_equal(run(devices.place_rows(x)), x[::-1])
    np.testing.assert_array_equal(collectives.reversed_rows(jnp.asarray(x), None), x[::-1])


@pytest.mark.parametrize(('mode', 'n'), [('jit', 8), ('pmap', 4), ('jit', 1)])
def test_rows_in_another_order(mode, n):
    """Also where all rows of a device go to one other device, which takes more rounds than a random order."""
    B, devices = 32, find_devices(mode, n)
    assert n == 1 or collectives.exchanged_rows(B // n, n) < B // n or n == 4
    permuted = devices.run(lambda x, source: collectives.permuted_rows(x, source, 'data'), (P('data'), P()), P('data'))
    rows = np.random.default_rng(0).integers(0, 256, (B, 3, 2), np.uint8)
    b = B // n
    transposed = np.arange(B).reshape(b, n).T.ravel() if n > 1 else np.arange(B)
    for source in (np.random.default_rng(1).permutation(B), np.arange(B), np.roll(np.arange(B), b), transposed):
        placed = devices.place(rows, P('data')), devices.place(source.astype(np.int32), P())
        result = devices.collect(permuted(*placed), P('data'))
        np.testing.assert_array_equal(result, rows[source])
