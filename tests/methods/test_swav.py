"""SwAV against trajectories of the authors' code: prototypes, frozen and trained, and the queue."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import MethodState, SwAV, networks
from contrastive_jax.optim import optimizers
from tests import goldens
from tests.methods.identity_network import same
from tests.methods.tiny_encoder import network


def newest_first(queues: np.ndarray, step: int) -> np.ndarray:
    """Rings [ranks, 2, slots, b, D] after a step, in the official layout [ranks, 2, slots * b, D]."""
    slots = queues.shape[2]
    order = [(step - age) % slots for age in range(slots)]
    return queues[:, :, order].reshape(*queues.shape[:2], -1, queues.shape[-1])


@pytest.mark.parametrize('case', goldens.cases('swav', 'train'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
@pytest.mark.parametrize('one_device', [False, True])
def test_trajectory(case: goldens.Case, precision: str, one_device: bool):
    """On the authors' devices, or with all of their examples on one."""
    f, o, tolerance = case.fields, case.fields['optimizer'], case.tolerances[precision]
    if f['crops_for_assign'] != [0, 1]:
        pytest.skip('codes are those of the two global views')
    crops, dim = sum(f['num_crops']), f['dim']
    world, b = (1, f['world_size'] * f['batch_size']) if one_device else (f['world_size'], f['batch_size'])
    with jax.enable_x64(precision == 'float64'):
        method = SwAV(
            same(dim), f['num_prototypes'], f['temperature'], f['epsilon'], f['iterations'], f['queue_size'],
            steps_per_epoch=f['steps'], total_steps=f['steps'],
        )  # fmt: skip
        optimizer = optimizers.freeze_for(
            optimizers.sgd(lambda _: o['learning_rate'], momentum=o['momentum'], weight_decay=o['weight_decay']),
            f['freeze_prototypes_steps'],
        )
        params = {'prototypes': normalize(jnp.asarray(case['prototypes_init'], precision))}
        opt_state = optimizer.init(params)
        slots = f['queue_size'] // (world * b)
        queues = jnp.zeros((world, 2, slots, b, dim), precision)
        memory = {'queues': queues} if f['queue_size'] else {}

        def local(params, memory, feats, t):
            state = MethodState({}, {'online': {}}, memory)

            def loss(params, views):
                batch = {'views': tuple(views)}
                return method.loss(params, state, batch, rng=None, progress=t / f['steps'], axis_name='data')

            (value, (state, _)), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, feats)
            return value, state.memory, *grads

        run = jax.jit(jax.vmap(local, axis_name='data', in_axes=(None, 0, 0, None)))
        for t in range(f['steps']):
            stored = case['feats'][:, t].reshape(f['world_size'], crops, -1, dim)
            feats = jnp.asarray(stored.swapaxes(0, 1).reshape(crops, world, b, dim).swapaxes(0, 1), precision)
            loss, memory, in_params, in_feats = run(params, memory, feats, t)
            goldens.assert_close(jnp.mean(loss), case['loss'][t].mean(), tolerance, f'loss {t}')
            if not one_device:
                goldens.assert_close(loss, case['loss'][t], tolerance, f'loss {t}')
                expected = case['grad_feats'][:, t].reshape(feats.shape)
                goldens.assert_close(in_feats, expected, tolerance, f'gradient of the projections {t}')
            in_prototypes = jnp.mean(in_params['prototypes'], axis=0)
            if t >= f['freeze_prototypes_steps']:
                expected = case['grad_prototypes'][:, t].mean(axis=0)
                goldens.assert_close(in_prototypes, expected, tolerance, f'gradient of the prototypes {t}')
            updates, opt_state = optimizer.update({'prototypes': in_prototypes}, opt_state, params)
            params = optax.apply_updates(params, updates)
            goldens.assert_close(params['prototypes'], case['prototypes_after'][t], tolerance, f'prototypes {t}')
            params, _ = method.after_update(params, None, progress=0.0)
            if t == f['queue_after_fill_step'] and not one_device:
                queues = newest_first(np.asarray(memory['queues']), t)
                goldens.assert_close(queues, case['queue_after_fill'], tolerance, 'full queue')
        if f['queue_size'] and not one_device:
            queues = newest_first(np.asarray(memory['queues']), f['steps'] - 1)
            goldens.assert_close(queues, case['queue_final'], tolerance, 'last queue')


def test_the_queue_waits_for_its_epoch_and_until_it_is_full(rng):
    """Two slots, from epoch 2 of two steps: used from step 6 on."""
    method = SwAV(same(3), 4, queue_size=16, queue_from_epoch=2, steps_per_epoch=2, total_steps=8)
    without = SwAV(same(3), 4, steps_per_epoch=2, total_steps=8)
    params = {'prototypes': normalize(jnp.asarray(rng.normal(size=(4, 3)), jnp.float32))}
    state = MethodState({}, {'online': {}}, {'queues': jnp.zeros((2, 2, 8, 3))})
    no_queue = MethodState({}, {'online': {}}, {})

    @jax.jit
    def both(state, views, progress):
        loss, (state, _) = method.loss(params, state, {'views': views}, rng=None, progress=progress)
        other, _ = without.loss(params, no_queue, {'views': views}, rng=None, progress=progress)
        return loss, other, state

    seen = []
    for step in range(8):
        views = tuple(jnp.asarray(rng.normal(size=(8, 3)), jnp.float32) for _ in range(2))
        loss, other, state = both(state, views, np.float32(step / 8))
        seen.append(normalize(views[0]))
        assert (abs(loss - other) > 1e-3) == (step >= 6), step
    np.testing.assert_allclose(state.memory['queues'][0], jnp.stack(seen[-2:]), rtol=1e-6)


HEAD = {'num_layers': 2, 'hidden_dim': 6, 'output_dim': 3}


@pytest.fixture
def crops(rng) -> tuple[jax.Array, ...]:
    """Two views of one size, and two of another: the tiny encoder flattens both to vectors of 7 numbers."""
    shapes = ((4, 7), (4, 7), (4, 1, 7), (4, 1, 7))
    return tuple(jnp.asarray(rng.normal(loc=i, size=shape), jnp.float32) for i, shape in enumerate(shapes))


def test_a_pass_for_each_size_and_one_of_the_head(crops):
    """BN of the encoder sees the crops of a size together, that of the projector all crops."""
    net = network(5, True, None, jnp.float32, HEAD, None)
    variables = net.init(jax.random.key(0), crops[0], train=True)
    params, stats = variables['params'], variables['batch_stats']
    h = [
        net.apply(variables, jnp.concatenate(group), train=True, method='encode', mutable=['batch_stats'])[0]
        for group in (crops[:2], [x[:, 0] for x in crops[2:]])
    ]
    expected, _ = net.apply(
        variables, jnp.concatenate(h), mutable=['batch_stats'], method=lambda net, h: net.projector(h, train=True)
    )
    z, new = networks.project_views(net, params, stats, crops, None)
    np.testing.assert_allclose(z.reshape(16, 3), expected, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(new) == jax.tree.structure(stats)


def test_a_bn_group_counts_images(crops):
    """With 4 images, groups of 2 give the results of two batches of 2."""
    whole, halves = (network(5, True, group, jnp.float32, HEAD, None) for group in (None, 2))
    variables = whole.init(jax.random.key(0), crops[0], train=True)
    params, stats = variables['params'], variables['batch_stats']
    z, _ = networks.project_views(halves, params, stats, crops, None)
    for half in (slice(0, 2), slice(2, 4)):
        expected, _ = networks.project_views(whole, params, stats, tuple(x[half] for x in crops), None)
        np.testing.assert_allclose(z[:, half], expected, rtol=1e-5, atol=1e-6)
