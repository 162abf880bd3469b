"""NNCLR's neighbors and loss against slow loops, values of an independent implementation, and more devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import nnclr
from contrastive_jax.losses.nnclr import nearest_neighbors
from tests import goldens

T = 0.1


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_neighbors(z: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Eq. 3 of arXiv 2104.14548, one vector at a time."""
    rows = unit(support.reshape(-1, support.shape[-1]))
    return np.stack([max(rows, key=lambda row: v @ row) for v in unit(z)])


def slow_nnclr(z: np.ndarray, p: np.ndarray, support: np.ndarray) -> float:
    """Eq. 2 of arXiv 2104.14548, one neighbor at a time."""
    losses = []
    for i, neighbor in enumerate(slow_neighbors(z, support)):
        scores = [np.exp(neighbor @ other / T) for other in unit(p)]
        losses.append(-np.log(scores[i] / sum(scores)))
    return float(np.mean(losses))


@pytest.fixture(scope='module')
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 5)), rng.normal(size=(8, 5)), rng.normal(size=(3, 8, 5))


def test_equation(arrays: Any) -> None:
    z, p, support = arrays
    with jax.enable_x64(True):
        neighbors = nearest_neighbors(jnp.asarray(z), jnp.asarray(support))
        np.testing.assert_allclose(neighbors.rows, slow_neighbors(z, support), rtol=1e-12)
        np.testing.assert_allclose(neighbors.similarity, np.sum(unit(z) * slow_neighbors(z, support), -1), rtol=1e-12)
        loss = nnclr(*map(jnp.asarray, arrays), temperature=T)
        np.testing.assert_allclose(loss, slow_nnclr(z, p, support), rtol=1e-12)
        unused = jax.grad(partial(nnclr, temperature=T), (0, 2))(*map(jnp.asarray, arrays))
        assert not any(jnp.any(g) for g in unused)


@pytest.mark.parametrize('case', goldens.cases('nnclr', 'loss'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_independent_implementation(case: goldens.Case, precision: str) -> None:
    f, tolerance = case.fields, case.tolerances[precision]
    with jax.enable_x64(precision == 'float64'):
        z, p, support = (jnp.asarray(case[name], precision) for name in ('z', 'p', 'support'))
        value, grad = jax.value_and_grad(partial(nnclr, temperature=f['temperature']), 1)(z, p, support)
        found = nearest_neighbors(z, support).rows
    goldens.assert_close(found, unit(case['neighbors']), tolerance, 'neighbors')
    goldens.assert_close(value, case['value'], tolerance, 'loss')
    goldens.assert_close(grad, case['grad_p'], tolerance, 'gradient')


def all_of(z: jax.Array, p: jax.Array, support: jax.Array, axis_name: str | None) -> Any:
    """Neighbors, loss, and the gradient with respect to p as that of the mean over the devices."""
    value, grad = jax.value_and_grad(partial(nnclr, temperature=T, axis_name=axis_name), 1)(z, p, support)
    found = nearest_neighbors(z, support, axis_name=axis_name)
    return collectives.pmean(value, axis_name), (tuple(found), grad / collectives.axis_size(axis_name))


@pytest.mark.parametrize('n', [2, 8])
def test_same_on_more_devices(arrays: Any, n: int) -> None:
    """Every device has its own part of the support set; most neighbors are on another device."""
    with jax.enable_x64(True):
        inputs = tuple(map(jnp.asarray, arrays))
        expected = all_of(*inputs, None)
        specs = (P('data'), P('data'), P(None, 'data'))
        run = find_devices(count=n).run(partial(all_of, axis_name='data'), specs, (P(), P('data')))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), run(*inputs), expected)


@pytest.mark.parametrize('n', [1, 4])
def test_equal_rows_and_many_rows(n: int) -> None:
    """Of equal rows one is taken, also across devices; the similarities are computed in parts."""
    z = jnp.eye(8)
    support = jnp.concatenate([jnp.eye(8), jnp.full((2**20, 8), -1.0), jnp.eye(8), jnp.full((2**20, 8), -1.0)])
    run = find_devices(count=n).run(
        lambda z, support: nearest_neighbors(z, support, axis_name='data').rows, (P('data'), P('data')), P('data')
    )
    np.testing.assert_array_equal(run(z, support), z)


def test_half_precision_inputs_give_float32(arrays: Any) -> None:
    inputs = tuple(jnp.asarray(x, jnp.bfloat16) for x in arrays)
    assert jax.jit(partial(nnclr, temperature=T))(*inputs).dtype == jnp.float32
