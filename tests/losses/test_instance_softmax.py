"""InvaSpread's loss: the authors' values and gradient, the equation in slow loops, more devices, extreme values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import instance_softmax
from tests import goldens


@pytest.mark.parametrize('case', goldens.cases('invaspread', 'loss'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_value_and_gradient_of_the_authors(case: goldens.Case, precision: str):
    f, tolerance = case.fields, case.tolerances[precision]
    with jax.enable_x64(precision == 'float64'):

        def loss(x):
            z1, z2 = jnp.split(x, 2)
            scale = f['loss_scale'] * len(x)  # ours is the mean over the rows
            settings = {name: f[name] for name in ('temperature', 'negative_multiplier')}
            return scale * instance_softmax(z1, z2, **settings)

        x = jnp.asarray(case['x'], precision)
        value, grad = jax.jit(jax.value_and_grad(loss))(x)
        goldens.assert_close(value, case['loss'], tolerance, 'loss')
        goldens.assert_close(grad, case['grad_x'], tolerance, 'grad x')
        # The gradient at unit features. Our loss normalizes them again, which removes the component along them.
        unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        expected = case['grad_feat'] - unit * jnp.sum(case['grad_feat'] * unit, axis=-1, keepdims=True)
        goldens.assert_close(jax.jit(jax.grad(loss))(unit), expected, tolerance, 'grad features')


def slow(z1: np.ndarray, z2: np.ndarray, temperature: float, m: float) -> float:
    x = np.concatenate([z1, z2])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    total, n = 0.0, len(x)
    for i in range(n):
        mate = (i + n // 2) % n
        e = {j: np.exp(x[i] @ x[j] / temperature) for j in range(n) if j != i}
        Z = e[mate] + m * sum(e[j] for j in e if j != mate)
        total += np.log(e[mate] / Z) + m * sum(np.log(1 - e[j] / Z) for j in e if j != mate)
    return -total / n


@pytest.mark.parametrize('m', [1.0, 1.5, 4.0])
def test_equation(rng, m: float):
    z1, z2 = rng.normal(size=(2, 6, 5))
    with jax.enable_x64(True):
        value = jax.jit(partial(instance_softmax, temperature=0.1, negative_multiplier=m))(z1, z2)
    np.testing.assert_allclose(value, slow(z1, z2, 0.1, m), rtol=1e-10)


@pytest.mark.parametrize(('how', 'n'), [('vmap', 1), ('shard_map', 2), ('vmap', 4), ('shard_map', 8)])
def test_same_on_more_devices(rng, how: str, n: int):
    def local(z1, z2, axis_name=None):
        loss, grads = jax.value_and_grad(
            lambda z1, z2: instance_softmax(z1, z2, temperature=0.1, axis_name=axis_name), argnums=(0, 1)
        )(z1, z2)
        return collectives.pmean(loss, axis_name), jax.tree.map(lambda g: g / collectives.axis_size(axis_name), grads)

    def on_device(z1, z2):
        return local(z1, z2, 'data')

    with jax.enable_x64(True):
        z1, z2 = map(jnp.asarray, rng.normal(size=(2, 8, 5)))
        expected_loss, expected = jax.jit(local)(z1, z2)
        if how == 'shard_map':
            run = find_devices(count=n).run(on_device, (P('data'), P('data')), (P(), (P('data'), P('data'))))
            loss, grads = run(z1, z2)
        else:
            loss, grads = jax.jit(jax.vmap(on_device, axis_name='data'))(z1.reshape(n, -1, 5), z2.reshape(n, -1, 5))
            loss, grads = loss[0], [g.reshape(8, 5) for g in grads]
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
        for g, e in zip(grads, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('m', [1.0, 3.0])
@pytest.mark.parametrize('temperature', [0.001, 0.1])
def test_extreme_features_are_finite(m: float, temperature: float):
    """A negative equals the query and the other view is opposite to it: P of the negative rounds to 1."""
    z1 = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    z2 = jnp.array([[-1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    loss_of = lambda z: instance_softmax(*z, temperature=temperature, negative_multiplier=m)  # noqa: E731
    gradient = jax.jit(jax.value_and_grad(loss_of))
    loss, grads = gradient((z1, z2))
    assert jnp.isfinite(loss) and all(jnp.isfinite(g).all() for g in grads)
    one, grads = gradient((z1[:1], z2[:1]))
    assert one == 0 and all(jnp.isfinite(g).all() for g in grads), 'one image has no negatives'


def test_half_precision_inputs_give_float32(rng):
    z1, z2 = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.bfloat16)
    assert jax.jit(partial(instance_softmax, temperature=0.1))(z1, z2).dtype == jnp.float32
