"""The loss of Barlow Twins against its equations in slow loops, the authors' values, and the same on more devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import barlow_twins
from tests import goldens


def slow_barlow_twins(z1: np.ndarray, z2: np.ndarray, weight: float) -> float:
    """Eq. 1 and 2 of arXiv 2103.03230, one pair of dimensions at a time, with torch's floor of the variance."""
    B, D = z1.shape
    loss = 0.0
    for i in range(D):
        for j in range(D):
            a, b = z1[:, i] - z1[:, i].mean(), z2[:, j] - z2[:, j].mean()
            c = sum(a * b) / (np.sqrt(sum(a * a) + B * 1e-5) * np.sqrt(sum(b * b) + B * 1e-5))
            loss += (1 - c) ** 2 if i == j else weight * c**2
    return loss


@pytest.fixture(scope='module')
def views() -> tuple[np.ndarray, np.ndarray]:
    z1, noise = np.random.default_rng(0).normal(size=(2, 16, 5))
    return 3 * z1 + 1, z1 + 0.5 * noise


def test_equation(views: Any) -> None:
    with jax.enable_x64(True):
        for weight in (0.0, 0.5):
            loss = barlow_twins(*map(jnp.asarray, views), off_diagonal=weight)
            np.testing.assert_allclose(loss, slow_barlow_twins(*views, weight), rtol=1e-12)


def value_and_gradient(z1: jax.Array, z2: jax.Array, axis_name: str | None, off_diagonal: float = 0.1) -> Any:
    """The loss, and its gradient as that of the mean over the devices."""
    loss = partial(barlow_twins, off_diagonal=off_diagonal, axis_name=axis_name)
    value, grads = jax.value_and_grad(loss, (0, 1))(z1, z2)
    return collectives.pmean(value, axis_name), jax.tree.map(lambda g: g / collectives.axis_size(axis_name), grads)


@pytest.mark.parametrize('case', goldens.cases('barlow_twins', 'loss'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_authors(case: goldens.Case, precision: str) -> None:
    """Values of their code, on one process and on two; the gradient is that of the whole batch."""
    f, tolerance = case.fields, case.tolerances[precision]
    with jax.enable_x64(precision == 'float64'):
        step = partial(value_and_gradient, axis_name='data', off_diagonal=f['off_diagonal'])
        z1, z2 = (jnp.asarray(case[name], precision) for name in ('z1', 'z2'))
        losses, grads = jax.jit(jax.vmap(step, axis_name='data'))(z1, z2)
    goldens.assert_close(losses, case['loss_of_rank'], tolerance, 'loss')
    for grad, name in zip(grads, ('grad_z1', 'grad_z2'), strict=True):
        goldens.assert_close(grad, case[name], tolerance, name)


@pytest.mark.parametrize('n', [2, 8])
def test_same_on_more_devices(views: Any, n: int) -> None:
    with jax.enable_x64(True):
        views = tuple(map(jnp.asarray, views))
        expected = value_and_gradient(*views, None)
        run = find_devices(count=n).run(
            partial(value_and_gradient, axis_name='data'), (P('data'),) * 2, (P(), P('data'))
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), run(*views), expected)


def test_known_answers(views: Any) -> None:
    """Equal views of uncorrelated dimensions have no loss; constant dimensions have C = 0."""
    z = jnp.asarray(np.sqrt(8) * np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0])
    z = jnp.concatenate([z, -z])  # its mean is 0
    np.testing.assert_allclose(barlow_twins(z, z), 0, atol=1e-6)
    value, grad = jax.value_and_grad(barlow_twins)(jnp.ones((4, 3)), jnp.ones((4, 3)))
    assert value == 3 and not jnp.any(jnp.isnan(grad))


def test_half_precision_projections_give_float32(views: Any) -> None:
    z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in views)
    value = jax.jit(barlow_twins)(z1, z2)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, barlow_twins(*(z.astype(jnp.float32) for z in (z1, z2))), rtol=1e-5)
