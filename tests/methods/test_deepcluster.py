"""DeepCluster-v2 against the authors' epoch, on any number of devices, and resumed in the middle of an epoch."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import spherical_kmeans
from contrastive_jax.methods import DeepCluster, MethodState
from contrastive_jax.methods.memory import sample_different_rows
from contrastive_jax.training import feed
from tests import complete_runs, goldens
from tests.complete_runs import digest, fit, lines, saved, tiny_config
from tests.methods.identity_network import same
from tests.methods.tiny_encoder import network

SPECS = MethodState(P(), P(), DeepCluster.memory_spec)


def empty(method: DeepCluster, batch: int, dim: int) -> MethodState:
    """The state at step 0."""
    head = {'num_layers': 1, 'hidden_dim': 1, 'output_dim': dim}
    method = dataclasses.replace(method, network=network(4, False, None, jnp.float32, head, None))
    return method.init(jax.random.key(0), {'views': (jnp.zeros((batch, dim)),)})[1]


@pytest.mark.parametrize('case', goldens.cases('deepcluster_v2', 'epoch'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
@pytest.mark.parametrize('split', [False, True])
def test_an_epoch_of_the_authors(case: goldens.Case, precision: str, split: bool):
    """With the authors' clusters, on one or several devices: the loss of every step, the memory after the epoch."""
    f, tolerance = case.fields, case.tolerances[precision]
    crops, n, world = sum(f['num_crops']), f['dataset_size'], f['world_size']
    if f['crops_for_assign'] != [0, 1]:
        pytest.skip('a head clusters the memory of the first or of the second global view')
    count = max(n for n in (1, 2, 4) if world * f['batch_size'] % n == 0) if split else 1  # they divide the memory too
    if split and count == 1:
        pytest.skip('an odd batch is not divided')
    method = DeepCluster(same(f['dim']), tuple(f['num_prototypes']), f['temperature'], num_examples=n)
    devices = find_devices(count=count)
    with jax.enable_x64(precision == 'float64'):
        state = empty(method, world * f['batch_size'], f['dim'])
        memory = jax.tree.map(lambda x: x.astype(precision) if x.dtype.kind == 'f' else x, state.memory)
        memory['assignments'] = memory['assignments'].at[:n].set(np.maximum(case['assignments'].T, -1).astype(np.int32))
        memory['prototypes'] = tuple(jnp.asarray(case.key(h['centroids']), precision) for h in f['heads'])
        state = devices.place(MethodState({}, {'online': {}}, memory), SPECS)

        def local(state, batch):
            loss, (state, _) = method.loss({}, state, batch, rng=None, progress=0.0, axis_name='data')
            return state, collectives.pmean(loss, 'data')

        run = devices.run(local, (SPECS, P('data')), (SPECS, P()))
        for t in range(f['steps']):
            emb = case['emb'][:, t].reshape(world, crops, -1, f['dim']).swapaxes(0, 1)  # the batches of all ranks
            emb = jnp.asarray(emb.reshape(crops, -1, f['dim']), precision)
            index = jnp.asarray(case['batch_index'][:, t].reshape(-1), jnp.int32)
            state, loss = run(state, {'views': tuple(emb), 'index': index})
            goldens.assert_close(loss, case['loss'][t].mean(), tolerance, f'loss {t}')
        expected = np.zeros((2, len(state.memory['banks'][0]), f['dim']))
        for index, rows in zip(case['memory_index_after'], case['memory_embeddings_after'], strict=True):
            expected[:, index] = rows
        goldens.assert_close(np.stack(state.memory['banks']), expected, tolerance, 'memory')


@pytest.mark.parametrize(('mode', 'count'), [('jit', 1), ('jit', 8), ('pmap', 2), ('jit', 3)])
def test_clusters_of_the_examples_that_were_seen(rng, mode, count):
    """Each head clusters its bank, from initial centroids in it; unseen examples get no cluster; banks are emptied."""
    n, dim, heads = 40, 5, (6, 3, 7)
    method = DeepCluster(same(dim), heads, num_examples=n)
    devices = find_devices(mode, count)
    key = jax.random.key(3)
    with jax.enable_x64(True):
        state = empty(method, 8, dim)
        seen = np.zeros(len(state.memory['banks'][0]), bool)
        seen[rng.permutation(n)[:32]] = True
        banks = rng.normal(size=(2, len(seen), dim)) * seen[:, None]
        banks /= np.maximum(np.linalg.norm(banks, axis=-1, keepdims=True), 1e-9)
        memory = state.memory | {'banks': tuple(jnp.asarray(banks)), 'entropy': jnp.zeros(())}
        memory['prototypes'] = tuple(x.astype(float) for x in memory['prototypes'])
        start = MethodState({}, {'online': {}}, memory)
        state = devices.place(start, SPECS)

        def local(state):
            bank = state.memory['banks'][0]
            sampled = sample_different_rows(key, bank, jnp.any(bank != 0, 1), 6, n, 'data')
            return method.before_epoch(state, rng=key, axis_name='data'), sampled

        new, sampled = devices.run(local, (SPECS,), (SPECS, P()))(state)
        new, sampled = jax.device_get((devices.collect(new, SPECS, start), devices.collect(sampled, P())))
        rows = [int(np.flatnonzero((banks[0] == row).all(1))[0]) for row in sampled]
        assert len(set(rows)) == 6 and seen[rows].all()

        for head, K in enumerate(heads):
            bank = jnp.asarray(banks[head % 2])
            start = sample_different_rows(jax.random.fold_in(key, head), bank, jnp.asarray(seen), K, n)
            centroids, nearest = spherical_kmeans(bank, start, mask=jnp.asarray(seen))
            np.testing.assert_array_equal(new.memory['assignments'][:, head], nearest)
            np.testing.assert_allclose(new.memory['prototypes'][head], centroids, atol=1e-12)
        assert (new.memory['assignments'][~seen] == -1).all() and (new.memory['assignments'][seen] >= 0).all()
        assert not any(bank.any() for bank in new.memory['banks'])
        assert 0 < new.memory['entropy'] < 1


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """56 images: three steps of 16 an epoch, and 8 that it drops."""
    return complete_runs.write_npz(tmp_path_factory.mktemp('data') / 'digits.npz', 56)


@pytest.mark.parametrize(
    ('mode', 'on_device', 'cuts'), [('jit', True, (1, 3, 4)), ('pmap', False, (3,))], ids=['resident', 'stream']
)
def test_a_run_that_initializes_memory_resumes_to_the_same_bits(data, mode, on_device, cuts, tmp_path):
    """Cut before, at and after the start of the second epoch, whose clusters belong to its first step."""
    config = tiny_config(
        'deepcluster', **{'parallel': mode, 'steps': 7, 'log_every_steps': 1, 'eval_every_steps': 0},
        **{'data.source': 'npz', 'data.name': '', 'data.path': str(data), 'data.on_device': on_device},
        **{'checkpoint_every_steps': 7},
    )  # fmt: skip
    assert isinstance(fit(config, tmp_path / 'whole'), dict)
    for step in cuts:
        assert fit(config, tmp_path / 'cut', at=step).startswith(f'SIGTERM at step {step} of 7, saved')
    assert isinstance(fit(config, tmp_path / 'cut'), dict)
    state = saved(config, tmp_path / 'cut')[1]
    assert digest(state) == digest(saved(config, tmp_path / 'whole')[1])
    assert lines(tmp_path / 'cut') == lines(tmp_path / 'whole')
    # Of the 56 those that the second epoch dropped have no cluster in the third.
    assert (state.method.memory['assignments'][:56] == -1).all(axis=1).sum() == 8


def test_a_signal_while_the_memory_is_initialized(data, tmp_path, monkeypatch):
    """Nothing is saved, and the same command starts from the beginning."""
    config = tiny_config('deepcluster', **{'data.source': 'npz', 'data.name': '', 'data.path': str(data), 'steps': 2})
    given, steps = feed.ResidentFeed.advance, []

    def advance(data, state, start, stop):
        steps.append(start)
        complete_runs.Cut.at = 0
        return given(data, state, start, stop)

    monkeypatch.setattr(feed.ResidentFeed, 'advance', advance)
    assert fit(config, tmp_path) == 'SIGTERM before the first step; the same command goes on from there'
    assert steps == [0] and list((tmp_path / 'checkpoints').iterdir()) == []
