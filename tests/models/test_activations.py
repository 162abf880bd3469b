"""Activation functions: GELU and its derivative in Python's own arithmetic, number by number."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models.activations import gelu


def exact(x: float) -> tuple[float, float]:
    """x Φ(x), and its derivative Φ(x) + x φ(x)."""
    cdf, density = math.erfc(-x / math.sqrt(2)) / 2, math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return x * cdf, cdf + x * density


@pytest.mark.parametrize(
    ('dtype', 'rtol', 'atol'),
    [('float64', 1e-14, 1e-15), ('float32', 1e-6, 1e-6), ('bfloat16', 0.03, 2e-3), ('float16', 4e-3, 1e-3)],
)
def test_gelu_and_its_derivative(dtype: str, rtol: float, atol: float) -> None:
    with jax.enable_x64(dtype == 'float64'):
        x = jnp.asarray([*np.linspace(-12, 12, 97), -1e-3, 0.0, 1e-3, 40.0], dtype)
        found = jax.jit(lambda x: (gelu(x), jax.vmap(jax.grad(gelu))(x)))(x)
    expected = zip(*map(exact, np.asarray(x, np.float64)), strict=True)
    for array, values in zip(found, expected, strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(np.asarray(array, np.float64), values, rtol=rtol, atol=atol)
