"""The standard deviation of features against its definition, known answers, and the same on more devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses.collapse import feature_std


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(16, 5)) * 3 + 1


def test_definition(x):
    columns = np.array([row / np.linalg.norm(row) for row in x]).T
    expected = np.mean([np.sqrt(np.mean([(v - sum(c) / 16) ** 2 for v in c])) for c in columns]) * np.sqrt(5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(feature_std(jnp.asarray(x)), expected, rtol=1e-12)


@pytest.mark.parametrize('n', [2, 8])
def test_same_on_more_devices(x, n: int):
    with jax.enable_x64(True):
        run = find_devices(count=n).run(lambda x: feature_std(x, 'data'), (P('data'),), P())
        np.testing.assert_allclose(run(jnp.asarray(x)), feature_std(jnp.asarray(x)), rtol=1e-12)


def test_known_answers():
    collapsed = jnp.tile(jnp.array([[0.3, -1.2, 0.7, 2.0]]), (16, 1))
    np.testing.assert_allclose(feature_std(collapsed), 0, atol=1e-6)
    spread = jax.random.normal(jax.random.key(0), (2000, 32))
    np.testing.assert_allclose(feature_std(spread), 1, atol=0.01)
    assert feature_std(jnp.zeros((4, 3))) == 0


def test_half_precision_features_give_float32(x):
    value = jax.jit(feature_std)(jnp.asarray(x, jnp.bfloat16))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, feature_std(jnp.asarray(x, jnp.float32)), rtol=0.02)
