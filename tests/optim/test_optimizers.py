"""Optimizers against the trajectories of the authors' own code, and against torch's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax.optim import optimizers
from tests import goldens


def optimizer_of(case: goldens.Case, rates: jax.Array) -> optax.GradientTransformation:
    f = case.fields
    settings = {key: f[key] for key in ('momentum', 'weight_decay', 'trust_coefficient')}
    if f['type'] == 'larc':
        return optimizers.larc(lambda step: rates[step], **settings, clip=f['clip'], eps=f['epsilon'])
    if f['mask'].startswith('by name'):
        settings['mask'] = lambda params: {name: name not in f['excluded'] for name in params}
    if f['lr_position'] == 'inside_momentum':
        return optimizers.lars_simclr(lambda step: rates[step], **settings, nesterov=f['nesterov'])
    if not f.get('classic_momentum', True):
        pytest.skip("an option of SimCLR's LARS that none of its recipes uses")
    return optimizers.lars(lambda step: rates[step], **settings)


@pytest.mark.parametrize('case', goldens.cases('lars'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_lars_trajectory(case: goldens.Case, precision: str):
    f = case.fields
    with jax.enable_x64(precision == 'float64'):
        optimizer = optimizer_of(case, jnp.asarray(f['learning_rate'], precision))
        params = {k: jnp.asarray(x, precision) for k, x in case.tree(f['initial']).items()}
        state = optimizer.init(params)
        for step in range(f['steps']):
            grads = {k: jnp.asarray(x[step], precision) for k, x in case.tree(f['gradients']).items()}
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for name in f['parameters']:
                goldens.assert_close(params[name], case[name][step], case.tolerances[precision], f'{name} {step}')


def test_sgd_and_adams_are_torch(rng: np.random.Generator):
    """Slow loops of the equations in torch's documentation."""
    w0, grads = rng.normal(size=(4, 3)), rng.normal(size=(5, 4, 3))
    rates = [0.1, 0.3, 0.2, 0.05, 0.01]
    with jax.enable_x64(True):
        rate = jnp.asarray(rates)
        for optimizer, expected in (
            (optimizers.sgd(lambda t: rate[t], momentum=0.9, weight_decay=0.01), sgd(w0, grads, rates, 0.9, 0.01)),
            (optimizers.adamw(lambda t: rate[t], weight_decay=0.1), adamw(w0, grads, rates, [0.1] * 5)),
            (optimizers.adam(lambda t: rate[t], weight_decay=0.1), adamw(w0, grads, rates, [0.0] * 5, l2=0.1)),
        ):
            w, state = {'w': jnp.asarray(w0)}, optimizer.init({'w': jnp.asarray(w0)})
            for g in grads:
                updates, state = optimizer.update({'w': jnp.asarray(g)}, state, w)
                w = optax.apply_updates(w, updates)
            np.testing.assert_allclose(w['w'], expected, rtol=1e-12)


def test_frozen_parameters_have_no_update_and_no_state(rng: np.random.Generator):
    params = {'encoder': {'patch_embed': {'kernel': jnp.ones(3)}, 'patch_embedding': jnp.ones(3)}, 'head': jnp.ones(2)}
    optimizer = optimizers.by_path(
        optimizers.adamw(lambda t: 0.1, weight_decay=0.5), {'frozen': (('encoder/patch_embed',), optax.set_to_zero())}
    )
    state = optimizer.init(params)
    grads = jax.tree.map(lambda x: jnp.full_like(x, 2.0), params)
    updates, state = optimizer.update(grads, state, params)
    assert not updates['encoder']['patch_embed']['kernel'].any()
    assert updates['encoder']['patch_embedding'].all() and updates['head'].all()
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    assert len(moments) == 4, 'two moments for each of the two trained leaves, none for the frozen one'


def test_every_tensor_is_clipped_by_its_own_norm():
    grads = {'long': jnp.asarray([[3.0, 4.0]]), 'short': jnp.asarray([0.3]), 'zero': jnp.zeros(2)}
    clipped, _ = optimizers.clip_per_tensor(1.0).update(grads, optax.EmptyState())
    np.testing.assert_allclose(clipped['long'], [[0.6, 0.8]], rtol=1e-6)
    assert np.linalg.norm(clipped['long']) < 1, 'the official code adds 1e-6 to the norm'
    np.testing.assert_array_equal(clipped['short'], grads['short'])
    np.testing.assert_array_equal(clipped['zero'], grads['zero'])


def sgd(w: np.ndarray, grads: np.ndarray, rates: list[float], momentum: float, weight_decay: float) -> np.ndarray:
    buffer = None
    for g, lr in zip(grads, rates, strict=True):
        g = g + weight_decay * w
        buffer = g if buffer is None else momentum * buffer + g
        w = w - lr * buffer
    return w


def adamw(w: np.ndarray, grads: np.ndarray, rates: list[float], decays: list[float], l2: float = 0.0) -> np.ndarray:
    """AdamW; with `l2` and without decay, Adam."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, lr, decay) in enumerate(zip(grads, rates, decays, strict=True), start=1):
        g = g + l2 * w
        w = w - lr * decay * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w
