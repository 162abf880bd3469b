"""BYOL against its equations written out for a tiny network. Its schedules are tested in tests/optim."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax.methods import BYOL
from tests.methods.test_moco import compare
from tests.methods.tiny_encoder import network

HEAD = {'num_layers': 2, 'hidden_dim': 12, 'output_dim': 4, 'bias': True, 'last_bias': False, 'bn_unbiased': False}


def slow_network(params, stats, x):
    """z and p (None without a predictor) of a batch, and the new statistics: each part is Linear, BN, ReLU, Linear."""
    stats = dict(stats)

    def layer(part, linear, bn, x):
        x = x @ params[part][linear]['kernel'] + params[part][linear].get('bias', 0.0)
        mean, var = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
        correction = len(x) / (len(x) - 1) if part == 'encoder' else 1.0  # the tests' encoder is torch's
        old = stats[part][bn]
        stats[part] = {bn: {'mean': 0.9 * old['mean'] + 0.1 * mean, 'var': 0.9 * old['var'] + 0.1 * var * correction}}
        x = (x - mean) / jnp.sqrt(var + 1e-5) * params[part][bn]['scale'] + params[part][bn]['bias']
        return jnp.maximum(x, 0.0)

    h = layer('encoder', 'linear', 'bn', x)
    z = layer('projector', 'linear_0', 'bn_0', h) @ params['projector']['linear_1']['kernel']
    if 'predictor' not in params:
        return z, None, stats
    return z, layer('predictor', 'linear_0', 'bn_0', z) @ params['predictor']['linear_1']['kernel'], stats


def slow_loss(theta, xi, stats, x1, x2):
    """Eq. 2 in both directions, summed; and the statistics of both networks, each seeing both views."""
    unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    _, p1, online = slow_network(theta, stats['online'], x1)
    _, p2, online = slow_network(theta, online, x2)
    z1, _, target = slow_network(xi, stats['target'], x1)
    z2, _, target = slow_network(xi, target, x2)
    loss = ((unit(p1) - unit(z2)) ** 2).sum(1) + ((unit(p2) - unit(z1)) ** 2).sum(1)
    return loss.mean(), {'online': online, 'target': target}


def test_a_training_is_that_of_the_equations(rng):
    steps, rate = 4, 0.3
    with jax.enable_x64(True):
        method = BYOL(network(12, True, None, jnp.float64, HEAD, HEAD), momentum=0.9)
        views = jnp.asarray(rng.normal(size=(steps, 2, 8, 6)))

        def loss(params, state, x1, x2, progress):
            return method.loss(params, state, {'views': (x1, x2)}, rng=None, progress=progress)

        ours, slow = (jax.jit(jax.value_and_grad(f, has_aux=True)) for f in (loss, slow_loss))
        init = jax.jit(lambda: method.init(jax.random.key(0), {'views': tuple(views[0])}))
        params, state = jax.tree.map(lambda x: x.astype('float64'), init())
        theta, xi, stats = params, state.target, state.batch_stats
        for t, (x1, x2) in enumerate(views):
            (expected, stats), grads = slow(theta, xi, stats, x1, x2)
            theta = jax.tree.map(lambda w, g: w - rate * g, theta, grads)
            tau = 1 - (1 - 0.9) * (np.cos(np.pi * t / steps) + 1) / 2
            # After the step: the target follows the new parameters. It has no predictor.
            xi = {part: jax.tree.map(lambda k, q: tau * k + (1 - tau) * q, xi[part], theta[part]) for part in xi}  # noqa: B023

            (loss_value, (state, metrics)), grads = ours(params, state, x1, x2, t / steps)
            params = optax.apply_updates(params, jax.tree.map(lambda g: -rate * g, grads))
            params, state = method.after_update(params, state, progress=t / steps)
            np.testing.assert_allclose(loss_value, expected, rtol=1e-10)
            compare(params, theta, 1e-9, 'online')
            compare(state.target, xi, 1e-9, 'target')
            compare(state.batch_stats, stats, 1e-9, 'statistics')
        assert 0.0 < metrics['alignment'] < 4.0 and set(state.target) == {'encoder', 'projector'}


def test_a_momentum_that_does_not_rise():
    """Table 5a of the paper: with tau = 0 the target is the online network, also at the end of the training."""
    method = BYOL(network(12, True, None, jnp.float32, HEAD, HEAD), momentum=0.0, momentum_rises=False)
    params, state = method.init(jax.random.key(0), {'views': (jnp.zeros((8, 6)),) * 2})
    _, after = method.after_update(params, state, progress=0.9)
    jax.tree.map(np.testing.assert_array_equal, after.target, {part: params[part] for part in after.target})
    assert method.schedules(0.9) == {'momentum of the target': 0}


def test_the_target_has_other_initial_weights():
    """As in the official code: the same distribution, with another key."""
    method = BYOL(network(12, True, None, jnp.float32, HEAD, HEAD))
    params, state = method.init(jax.random.key(0), {'views': (jnp.zeros((8, 6)),) * 2})
    online, target = (tree['projector']['linear_0']['kernel'] for tree in (params, state.target))
    assert abs(np.corrcoef(np.ravel(online), np.ravel(target))[0, 1]) < 0.3
    np.testing.assert_allclose(online.std(), target.std(), rtol=0.3)
    assert set(state.target) == set(state.batch_stats['target']) == {'encoder', 'projector'}
