"""The loss of VICReg against its equations in slow loops, the authors' values, and the same on more devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import vicreg
from contrastive_jax.losses.vicreg import vicreg_terms
from tests import goldens


def slow_terms(z1: np.ndarray, z2: np.ndarray) -> tuple[float, float, float]:
    """Eq. 1 to 5 of arXiv 2105.04906 with the factors of the official code, one pair of dimensions at a time."""
    B, D = z1.shape
    invariance = sum((a - b) ** 2 for a, b in zip(z1.ravel(), z2.ravel(), strict=True)) / (B * D)
    variance, covariance = 0.0, 0.0
    for z in (z1, z2):
        for i in range(D):
            for j in range(D):
                cov = sum((a - z[:, i].mean()) * (b - z[:, j].mean()) for a, b in z[:, [i, j]]) / (B - 1)
                if i == j:
                    variance += max(0, 1 - np.sqrt(cov + 1e-4)) / D / 2
                else:
                    covariance += cov**2 / D
    return invariance, variance, covariance


@pytest.fixture(scope='module')
def views() -> tuple[np.ndarray, np.ndarray]:
    z1, noise = np.random.default_rng(0).normal(size=(2, 16, 5))
    return z1 + 1, 0.7 * z1 + 0.5 * noise


def test_equation(views: Any) -> None:
    with jax.enable_x64(True):
        z1, z2 = map(jnp.asarray, views)
        s, v, c = slow_terms(*views)
        np.testing.assert_allclose(vicreg_terms(z1, z2), (s, v, c), rtol=1e-12)
        np.testing.assert_allclose(vicreg(z1, z2), 25 * s + 25 * v + c, rtol=1e-12)
        loss = vicreg(z1, z2, invariance=2.0, variance=3.0, covariance=5.0)
        np.testing.assert_allclose(loss, 2 * s + 3 * v + 5 * c, rtol=1e-12)


def value_and_gradient(z1: jax.Array, z2: jax.Array, axis_name: str | None) -> Any:
    """The loss, and its gradient as that of the mean over the devices."""
    value, grads = jax.value_and_grad(partial(vicreg, axis_name=axis_name), (0, 1))(z1, z2)
    return collectives.pmean(value, axis_name), jax.tree.map(lambda g: g / collectives.axis_size(axis_name), grads)


@pytest.mark.parametrize('case', goldens.cases('vicreg', 'loss'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_authors(case: goldens.Case, precision: str) -> None:
    """Values of their code, on one process and on two."""
    f, tolerance = case.fields, case.tolerances[precision]
    assert (f['invariance'], f['variance'], f['covariance']) == (25.0, 25.0, 1.0)
    with jax.enable_x64(precision == 'float64'):
        z1, z2 = (jnp.asarray(case[name], precision) for name in ('z1', 'z2'))
        losses = jax.jit(jax.vmap(partial(vicreg, axis_name='data'), axis_name='data'))(z1, z2)
        step = jax.vmap(partial(value_and_gradient, axis_name='data'), axis_name='data')
        means, grads = jax.jit(step)(z1, z2)
    goldens.assert_close(losses, case['loss_of_rank'], tolerance, 'loss of each process')
    goldens.assert_close(means[0], case['loss'], tolerance, 'loss')
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


def test_collapsed_projections_have_a_finite_gradient() -> None:
    z = jnp.ones((4, 3))
    terms = vicreg_terms(z, z)
    assert terms.invariance == 0 and terms.covariance == 0
    np.testing.assert_allclose(terms.variance, 0.99, rtol=1e-6)  # 1 - sqrt(1e-4)
    assert jnp.all(jnp.isfinite(jax.grad(vicreg)(z, z)))


def test_half_precision_projections_give_float32(views: Any) -> None:
    z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in views)
    value = jax.jit(vicreg)(z1, z2)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, vicreg(*(z.astype(jnp.float32) for z in (z1, z2))), rtol=1e-5)
