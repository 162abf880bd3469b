"""NT-Xent against the equation in slow loops, the authors' values and gradients, and the same on more devices."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import nt_xent, nt_xent_with_memory
from tests import goldens

T = 0.1


def slow_nt_xent(z1: np.ndarray, z2: np.ndarray, memory: np.ndarray, temperature: float) -> float:
    """Eq. 1 of arXiv 2002.05709, one view at a time; the sum of the means of both kinds of views."""
    z = np.concatenate([z1, z2])
    z, memory = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, memory))
    B, losses = len(z1), []
    for i in range(2 * B):
        j = (i + B) % (2 * B)
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * B) if k != i)
        others += sum(np.exp(z[i] @ m / temperature) for m in memory)
        losses.append(-np.log(np.exp(z[i] @ z[j] / temperature) / others))
    return float(np.mean(losses[:B]) + np.mean(losses[B:]))


@pytest.fixture(scope='module')
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 5)), rng.normal(size=(8, 5)), rng.normal(size=(3, 8, 5))


def test_equation(arrays: Any) -> None:
    z1, z2, memory = arrays
    with jax.enable_x64(True):
        expected = slow_nt_xent(z1, z2, np.empty((0, 5)), T)
        np.testing.assert_allclose(jax.jit(partial(nt_xent, temperature=T))(z1, z2), expected, rtol=1e-12)
        expected = slow_nt_xent(z1, z2, memory.reshape(-1, 5), T)
        loss = jax.jit(partial(nt_xent_with_memory, temperature=T))(z1, z2, memory)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_gradients_against_finite_differences(arrays: Any) -> None:
    z1, z2, memory = arrays
    with jax.enable_x64(True):
        check_grads(jax.jit(partial(nt_xent, temperature=0.5)), (z1, z2), 1, modes=['rev'])
        with_memory = jax.jit(partial(nt_xent_with_memory, temperature=0.5))
        check_grads(lambda *z: with_memory(*z, memory), (z1, z2), 1, modes=['rev'])
        assert not jax.grad(with_memory, argnums=2)(z1, z2, memory).any()


@pytest.mark.parametrize('case', goldens.cases('simclr_loss', 'contrastive'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_authors(case: goldens.Case, precision: str) -> None:
    f, tolerance = case.fields, case.tolerances[precision]
    assert f['loss_scale_times'] == 'mean over the 2N rows'
    scale = f['loss_scale'] / 2  # ours is the sum of the means over the N rows of either view
    with jax.enable_x64(precision == 'float64'):
        hidden = jnp.asarray(case['hidden'], precision)
        loss, grad = jax.jit(
            jax.value_and_grad(
                lambda h: scale * nt_xent(*jnp.split(h, 2), temperature=f['temperature'], unit=f['hidden_norm'])
            )
        )(hidden)
    goldens.assert_close(loss, case['loss'], tolerance, 'loss')
    goldens.assert_close(loss, case['loss_f32'], max(tolerance, case.tolerances['float32']), 'their float32')
    goldens.assert_close(grad, case['grad'], tolerance, 'gradient')


@pytest.mark.parametrize('case', goldens.cases('simclr_loss', 'contrastive_multi_device'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_authors_on_several_devices(case: goldens.Case, precision: str) -> None:
    """The loss of every replica, and the gradient of their mean, which includes the gathered projections."""
    f, tolerance = case.fields, case.tolerances[precision]
    assert f['gradient_of'] == 'mean over replicas of the per-replica loss'

    def local(hidden: jax.Array) -> Any:
        def loss(h: jax.Array) -> jax.Array:
            z1, z2 = jnp.split(h, 2)
            loss = nt_xent(z1, z2, temperature=f['temperature'], unit=f['hidden_norm'], axis_name='data')
            return f['loss_scale'] / 2 * loss

        value, grad = jax.value_and_grad(loss)(hidden)
        return value, grad / collectives.axis_size('data')

    with jax.enable_x64(precision == 'float64'):
        loss, grad = jax.jit(jax.vmap(local, axis_name='data'))(jnp.asarray(case['hidden'], precision))
    goldens.assert_close(loss, case['loss'], tolerance, 'loss')
    goldens.assert_close(grad, case['grad'], tolerance, 'gradient')


def both(z1: jax.Array, z2: jax.Array, memory: jax.Array, axis_name: str | None) -> Any:
    """Both losses, and their gradient as that of the mean over the devices."""

    def loss(z1: jax.Array, z2: jax.Array) -> jax.Array:
        return nt_xent(z1, z2, temperature=T, axis_name=axis_name) + nt_xent_with_memory(
            z1, z2, memory, temperature=T, axis_name=axis_name
        )

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(z1, z2)
    return collectives.pmean(value, axis_name), jax.tree.map(lambda g: g / collectives.axis_size(axis_name), grads)


@pytest.fixture(scope='module')
def on_one_device(arrays: Any) -> Any:
    with jax.enable_x64(True):
        return jax.jit(partial(both, axis_name=None))(*arrays)


@pytest.mark.parametrize('n', [1, 2, 4, 8])
@pytest.mark.parametrize('how', ['shard_map', 'pmap', 'vmap'])
def test_same_on_more_devices(arrays: Any, on_one_device: Any, n: int, how: str) -> None:
    expected_loss, expected_grads = on_one_device
    with jax.enable_x64(True):
        z1, z2, memory = map(jnp.asarray, arrays)
        local = partial(both, axis_name='data')
        if how == 'shard_map':
            specs = (P('data'), P('data'), P(None, 'data'))
            mapped = jax.shard_map(
                local, mesh=find_devices(count=n).mesh, in_specs=specs, out_specs=(P(), (P('data'),) * 2),
                check_vma=False,
            )  # fmt: skip
            loss, grads = jax.jit(mapped)(z1, z2, memory)
        else:
            split = lambda x: x.reshape(n, -1, 5)  # noqa: E731
            mapped = {
                'pmap': partial(jax.pmap, devices=jax.devices()[:n]),
                'vmap': lambda f, **kw: jax.jit(jax.vmap(f, **kw)),
            }[how]
            shards = jnp.moveaxis(memory.reshape(3, n, -1, 5), 1, 0)
            loss, grads = mapped(local, axis_name='data')(split(z1), split(z2), shards)
            loss, grads = loss[0], jax.tree.map(lambda g: g.reshape(-1, 5), grads)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
        for g, expected in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-12)


@functools.cache
def gradient_of(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The loss at a low temperature and its gradient with respect to the first views, compiled once for all inputs."""
    return jax.jit(jax.value_and_grad(partial(loss, temperature=0.01)))


@pytest.mark.parametrize('scale', [0.0, 1e-20, 1e15])
def test_finite_at_extreme_inputs(arrays: Any, scale: float) -> None:
    z1, z2, memory = (jnp.asarray(scale * x, jnp.float32) for x in arrays)
    for loss, others in ((nt_xent, (z2,)), (nt_xent_with_memory, (z2, memory))):
        value, grad = jax.device_get(gradient_of(loss)(z1, *others))
        assert np.isfinite(value) and np.isfinite(grad).all()


def test_a_single_image_has_no_negatives() -> None:
    z = jnp.ones((1, 4))
    assert jax.jit(partial(nt_xent, temperature=T))(z, -z) == 0.0


def test_half_precision_inputs_give_float32(arrays: Any) -> None:
    z1, z2, memory = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    assert jax.jit(partial(nt_xent, temperature=T))(z1, z2).dtype == jnp.float32
    assert jax.jit(partial(nt_xent_with_memory, temperature=T))(z1, z2, memory).dtype == jnp.float32
