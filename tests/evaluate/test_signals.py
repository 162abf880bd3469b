"""The collapse signals compared with their definitions in loops, and with known values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.evaluate import signals


def unit(v):
    return v / np.linalg.norm(v)


@pytest.fixture
def xy():
    rng = np.random.default_rng(1)
    return rng.normal(size=(12, 5)) * 3 + 1, rng.normal(size=(12, 5))


def test_effective_rank_is_its_definition(xy):
    x, _ = xy
    s = np.sqrt(np.linalg.eigvalsh(x.T @ x))  # singular values, computed in another way
    p = [value / sum(s) for value in s]
    np.testing.assert_allclose(
        signals.effective_rank(jnp.asarray(x)), np.exp(-sum(q * np.log(q) for q in p)), rtol=1e-4
    )


def test_uniformity_is_its_definition(xy):
    x, _ = xy
    kernel = [np.exp(-2 * np.sum((unit(x[i]) - unit(x[j])) ** 2)) for i in range(12) for j in range(i)]
    np.testing.assert_allclose(signals.uniformity(jnp.asarray(x)), np.log(np.mean(kernel)), rtol=1e-5)


def test_collapsed_features():
    x = jnp.tile(jnp.array([[0.3, -1.2, 0.7, 2.0]]), (16, 1))
    np.testing.assert_allclose(signals.effective_rank(x), 1, atol=1e-3)
    np.testing.assert_allclose(signals.uniformity(x), 0, atol=1e-5)


def test_spread_features():
    x = jax.random.normal(jax.random.key(0), (2000, 32))
    np.testing.assert_allclose(signals.uniformity(x), -4 + 4 / 32 * 2, atol=0.1)  # E exp(4 cos), var cos = 1 / D
    np.testing.assert_allclose(signals.effective_rank(jnp.eye(7, 20)), 7, rtol=1e-4)


def test_zero_vectors_are_no_nan():
    x = jnp.zeros((4, 3))
    for value in (signals.effective_rank(x), signals.uniformity(x)):
        assert np.isfinite(value)


def test_bfloat16_features_are_measured_in_float32(xy):
    x = jnp.asarray(xy[0], jnp.bfloat16)
    for signal in (signals.effective_rank, signals.uniformity):
        value = jax.jit(signal)(x)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, signal(jnp.asarray(xy[0])), rtol=0.02)


def test_uniformity_needs_a_pair():
    with pytest.raises(ValueError, match='at least 2 examples, got 1'):
        signals.uniformity(jnp.ones((1, 3)))
