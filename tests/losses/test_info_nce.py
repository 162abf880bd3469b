"""InfoNCE against the equation in slow loops and the authors' values, and the same on more devices."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import AXIS, find_devices
from contrastive_jax.losses import info_nce, info_nce_in_batch
from tests import goldens

T = 0.07


def slow_info_nce(q: np.ndarray, k: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    """Eq. 1 of arXiv 1911.05722, one query at a time."""
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    losses = []
    for i in range(len(q)):
        positive = np.exp(unit(q[i]) @ unit(k[i]) / temperature)
        others = sum(np.exp(unit(q[i]) @ unit(n) / temperature) for n in negatives)
        losses.append(-np.log(positive / (positive + others)))
    return float(np.mean(losses))


@pytest.fixture(scope='module')
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 5)), rng.normal(size=(8, 5)), rng.normal(size=(3, 8, 5))


def test_equation(arrays):
    q, k, negatives = arrays
    with jax.enable_x64(True):
        loss = jax.jit(partial(info_nce, temperature=T))(q, k, negatives)
        np.testing.assert_allclose(loss, slow_info_nce(q, k, negatives.reshape(-1, 5), T), rtol=1e-12)
        in_batch = jax.jit(partial(info_nce_in_batch, temperature=T))(q, k)
        slow = np.mean([slow_info_nce(q[i : i + 1], k[i : i + 1], np.delete(k, i, 0), T) for i in range(8)])
        np.testing.assert_allclose(in_batch, slow, rtol=1e-12)


def test_gradients_against_finite_differences(arrays):
    q, k, negatives = arrays
    with jax.enable_x64(True):
        loss = jax.jit(partial(info_nce, temperature=T))
        check_grads(lambda q, k: loss(q, k, negatives), (q, k), 1, modes=['rev'])
        check_grads(jax.jit(partial(info_nce_in_batch, temperature=T)), (q, k), 1, modes=['rev'])
        assert not jax.grad(loss, argnums=2)(q, k, negatives).any()


def losses_of(axis_name):
    """A function of local arrays that returns both losses, their gradients and pmeans."""

    def both(q, k, negatives):
        return info_nce(q, k, negatives, temperature=T, axis_name=axis_name) + info_nce_in_batch(
            q, k, temperature=T, axis_name=axis_name
        )

    def local(q, k, negatives):
        loss, grads = jax.value_and_grad(both, argnums=(0, 1))(q, k, negatives)
        # The gradient of the mean over devices with respect to local rows: that of the sum, over the device count.
        return collectives.pmean(loss, axis_name), jax.tree.map(lambda g: g / collectives.axis_size(axis_name), grads)

    return local


@pytest.fixture(scope='module')
def on_one_device(arrays):
    with jax.enable_x64(True):
        return jax.jit(losses_of(None))(*arrays)


@pytest.mark.parametrize('n', [1, 2, 4, 8])
@pytest.mark.parametrize('how', ['shard_map', 'pmap', 'vmap'])
def test_same_on_more_devices(arrays, on_one_device, n: int, how: str):
    expected_loss, expected_grads = on_one_device
    with jax.enable_x64(True):
        q, k, negatives = map(jnp.asarray, arrays)
        local = losses_of(AXIS)
        if how == 'shard_map':
            specs = (P('data'), P('data'), P(None, 'data'))
            mesh = find_devices(count=n).mesh
            mapped = jax.shard_map(
                local, mesh=mesh, in_specs=specs, out_specs=(P(), (P('data'), P('data'))), check_vma=False
            )
            loss, grads = jax.jit(mapped)(q, k, negatives)
        else:
            split = lambda x: x.reshape(n, -1, 5)  # noqa: E731
            mapped = {
                'pmap': partial(jax.pmap, devices=jax.devices()[:n]),
                'vmap': lambda f, **axes: jax.jit(jax.vmap(f, **axes)),
            }[how]
            shards = jnp.moveaxis(negatives.reshape(3, n, -1, 5), 1, 0)
            loss, grads = mapped(local, axis_name='data')(split(q), split(k), shards)
            loss, grads = loss[0], jax.tree.map(lambda g: g.reshape(-1, 5), grads)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
        for g, expected in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('case', goldens.cases('mocov3_loss', 'contrastive_loss'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_mocov3_loss_of_the_authors(case: goldens.Case, precision: str):
    """The loss and gradient of every rank, computed with collectives."""
    temperature, scale = case.fields['temperature'], case.fields['loss_scale']

    def local(q1, q2, k1, k2):
        def loss(q1, q2):
            half = partial(info_nce_in_batch, temperature=temperature, axis_name='data')
            l12 = scale * half(q1, jax.lax.stop_gradient(k2))
            l21 = scale * half(q2, jax.lax.stop_gradient(k1))
            return l12 + l21, (l12, l21)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(q1, q2)

    with jax.enable_x64(precision == 'float64'):
        inputs = [jnp.asarray(case[name], precision) for name in ('q1', 'q2', 'k1', 'k2')]
        results = jax.jit(jax.vmap(local, axis_name='data'))(*inputs)
        (g1, g2), (l12, l21) = jax.tree.map(np.asarray, results)
    tolerance = case.tolerances[precision]
    goldens.assert_close(l12, case['loss_q1k2'], tolerance, 'q1k2')
    goldens.assert_close(l21, case['loss_q2k1'], tolerance, 'q2k1')
    goldens.assert_close((l12 + l21).mean(), case['loss_mean'], tolerance, 'mean')
    goldens.assert_close(g1, case['grad_q1'], tolerance, 'grad q1')
    goldens.assert_close(g2, case['grad_q2'], tolerance, 'grad q2')


def test_zero_vectors_have_finite_gradients():
    zero = jnp.zeros((2, 3))
    both = lambda q: info_nce(q, zero, zero, temperature=T) + info_nce_in_batch(q, zero, temperature=T)  # noqa: E731
    assert np.isfinite(jax.jit(jax.grad(both))(zero)).all()


def test_half_precision_inputs_give_float32(arrays):
    q, k, negatives = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    assert jax.jit(partial(info_nce, temperature=T))(q, k, negatives).dtype == jnp.float32
    assert jax.jit(partial(info_nce_in_batch, temperature=T))(q, k).dtype == jnp.float32


def test_losses_import_no_heavy_package():
    """Who reuses a loss needs jax alone."""
    code = (
        'import sys, contrastive_jax.losses; from contrastive_jax.losses import info_nce, info_nce_in_batch; '
        'heavy = {"flax", "tensorflow", "optax", "orbax", "ml_collections", "grain", "clu"} & set(sys.modules); '
        'assert not heavy, heavy'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
