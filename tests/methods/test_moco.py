"""MoCo v1 and v2 against trajectories of the authors' code; the symmetric variant against both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.methods import MethodState, MoCo, memory
from contrastive_jax.optim import optimizers
from tests import goldens
from tests.methods.tiny_encoder import network, split

PARTS = {'body': 'encoder', 'fc': 'projector'}


def method_of(f: dict, precision: str, **changes) -> MoCo:
    e = f['encoder']
    hidden = f.get('mlp') and e['hidden_dim']
    projector = {
        'num_layers': 2 if f['mlp'] else 1,
        'hidden_dim': hidden or 1,
        'output_dim': f['dim'],
        'bias': True,
        'batch_norm': False,
    }
    group = f['batch_size'] if e['batch_norm'] else None  # local BN: a group is a device's batch
    return MoCo(
        network(e['hidden_dim'], e['batch_norm'], group, jnp.dtype(precision), projector, None),
        queue_size=f['queue_size'],
        momentum=f['momentum'],
        temperature=f['temperature'],
        symmetric=f['symmetric'],
        shuffle_bn=f['shuffle_bn'],
        **changes,
    )


def skip_other_queues(f: dict) -> None:
    B = f['batch_size'] * f['world_size']
    if f['queue_size'] % B or f['initial_pointer'] % B:
        pytest.skip('our queue holds whole batches')


def initial_state(case: goldens.Case, precision: str) -> tuple[dict, MethodState]:
    f = case.fields
    B = f['batch_size'] * f['world_size']
    params, stats = split(case.tree(f['query_init']), PARTS, precision)
    target, target_stats = split(case.tree(f['key_init']), PARTS, precision)
    keys = jnp.asarray(case['queue_init'].T.reshape(-1, B, f['dim']), precision)
    queue = {'keys': keys, 'slot': jnp.int32(f['initial_pointer'] // B)}
    return params, MethodState(target, {'online': stats, 'target': target_stats}, {'queue': queue})


def official(queue: memory.Queue) -> np.ndarray:
    """Our ring [slots, B, D] in the official layout [D, K]."""
    keys = np.asarray(queue['keys'])
    return keys.reshape(-1, keys.shape[-1]).T


@pytest.mark.parametrize('case', goldens.cases('moco', 'trajectory'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_trajectory(case: goldens.Case, precision: str):
    f, tolerance = case.fields, case.tolerances[precision]
    o = f['optimizer']
    skip_other_queues(f)
    with jax.enable_x64(precision == 'float64'):
        method = method_of(f, precision)
        params, state = initial_state(case, precision)
        optimizer = optimizers.sgd(
            lambda _: o['learning_rate'], momentum=o['momentum'], weight_decay=o['weight_decay'], nesterov=o['nesterov']
        )
        opt_state = optimizer.init(params)

        @jax.jit
        def step(params, state, opt_state, x_q, x_k):
            batch = {'views': (x_q, x_k), 'index': jnp.arange(len(x_q))}
            loss = lambda p: method.loss(p, state, batch, rng=None, progress=0.0)  # noqa: E731
            (loss, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state, loss, grads

        for t in range(f['steps']):
            x_q, x_k = (jnp.asarray(case[name][t], precision) for name in ('im_q', 'im_k'))
            params, state, opt_state, loss, grads = step(params, state, opt_state, x_q, x_k)
            goldens.assert_close(loss, case['loss'][t], tolerance, f'loss {t}')
            if t == 0:
                compare(grads, split(case.below('grad0'), PARTS, precision)[0], tolerance, 'grad0')
            if t == f['queue_first_step']:
                goldens.assert_close(official(state.memory['queue']), case['queue_first'], tolerance, 'first queue')
            for name, tree in (('encoder_q', params), ('encoder_k', state.target)):
                expected = {key: x[t] for key, x in case.below(name).items()}
                compare(tree, split(expected, PARTS, precision)[0], tolerance, f'{name} {t}')
            if t in f['queue_after_steps']:
                expected = case['queue_after'][f['queue_after_steps'].index(t)]
                goldens.assert_close(official(state.memory['queue']), expected, tolerance, f'queue {t}')
            B = f['batch_size'] * f['world_size']
            assert int(state.memory['queue']['slot']) * B == int(case['ptr_after'][t])


@pytest.mark.parametrize('case', goldens.cases('moco', 'multi_device'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
@pytest.mark.parametrize('one_device', [False, True])
def test_multi_device(case: goldens.Case, precision: str, one_device: bool):
    """The authors' DDP run with shuffled BN, on as many devices and on one."""
    f, tolerance = case.fields, case.tolerances[precision]
    world, per_device = f['world_size'], f['batch_size']
    skip_other_queues(f)
    devices = find_devices(count=1 if one_device else world)
    with jax.enable_x64(precision == 'float64'):
        method = method_of(f, precision)
        params, state = initial_state(case, precision)
        specs = MethodState(P(), P(), method.memory_spec)

        def local(state, batch):
            shuffle = batch.pop('shuffle')
            loss, (state, _) = method.loss(
                params, state, {**batch, 'shuffle': shuffle}, rng=None, progress=0.0, axis_name='data'
            )
            return state, collectives.pmean(loss, 'data')

        batch_specs = {'views': P('data'), 'shuffled': P('data'), 'index': P('data'), 'shuffle': P()}
        run = devices.run(local, (specs, batch_specs), (specs, P()))
        for t in range(f['steps']):
            x_q, x_k = (jnp.asarray(case[n][t], precision).reshape(world * per_device, -1) for n in ('im_q', 'im_k'))
            shuffle = jnp.asarray(case['idx_shuffle'][t])
            batch = {
                'views': (x_q, x_k),
                'shuffled': (x_q[shuffle], x_k[shuffle]),
                'index': jnp.arange(len(x_q)),
                'shuffle': shuffle,
            }
            state, loss = run(state, batch)
            goldens.assert_close(loss, case['loss'][t].mean(), tolerance, f'loss {t}')
            if t in f['queue_after_steps']:
                expected = case['queue_after'][f['queue_after_steps'].index(t)]
                goldens.assert_close(official(state.memory['queue']), expected, tolerance, f'queue {t}')
            assert int(state.memory['queue']['slot']) * world * per_device == int(case['ptr_after'][t])
        final = split(case.below('encoder_k_final'), PARTS, precision)[0]
        compare(state.target, final, tolerance, 'key encoder')
        for name, key in (('online', 'query'), ('target', 'key')):  # ours are the mean over the authors' ranks
            ranks = [split(case.tree(b[key]), PARTS, precision)[1] for b in f['bn_buffers']]
            mean = jax.tree.map(lambda *xs: sum(xs) / len(xs), *ranks)
            compare(state.batch_stats[name], mean, tolerance, f'{name} statistics')


def test_symmetric_is_both_directions(rng):
    """The CIFAR demo: the sum of the losses of both directions against the old queue; both key batches enqueued."""
    net = network(6, True, 4, jnp.float32, {'num_layers': 1, 'hidden_dim': 1, 'output_dim': 3, 'bias': True}, None)
    settings = {'queue_size': 16, 'momentum': 0.9, 'temperature': 0.2, 'shuffle_bn': False}
    v1, v2 = (jnp.asarray(rng.normal(size=(8, 5)), jnp.float32) for _ in range(2))
    one_way, both = MoCo(net, **settings), MoCo(net, **settings, symmetric=True)
    params, state = one_way.init(jax.random.key(0), {'views': (v1, v2)})

    def run(method, views):
        return method.loss(params, state, {'views': views}, rng=None, progress=0.0)

    loss12, (state12, _) = run(one_way, (v1, v2))
    loss21, (state21, _) = run(one_way, (v2, v1))
    loss, (new, _) = run(both, (v1, v2))
    np.testing.assert_allclose(loss, loss12 + loss21, rtol=1e-6)
    keys = new.memory['queue']['keys']
    np.testing.assert_allclose(keys[0], state21.memory['queue']['keys'][0], rtol=1e-6)  # keys of view 1 first
    np.testing.assert_allclose(keys[1], state12.memory['queue']['keys'][0], rtol=1e-6)
    assert int(new.memory['queue']['slot']) == 0


def compare(actual, expected, tolerance: float, what: str) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected), what
    jax.tree.map(lambda a, b: goldens.assert_close(a, b, tolerance, what), actual, expected)
