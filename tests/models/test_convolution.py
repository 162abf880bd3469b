"""The gradient of a convolution that is summed over parts of a batch, against the whole one in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from contrastive_jax.models import convolution
from contrastive_jax.models.resnet import conv


@pytest.mark.parametrize('batch', [convolution.PART + 3, 9 * convolution.PART])
@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_are_those_of_the_whole_batch(batch: int, stride: int) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((batch, 6, 5, 3), np.float32), rng.standard_normal((3, 3, 3, 4), np.float32)
    module = conv(4, 3, stride, jnp.float32, 'conv', train=True)

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(module.apply({'params': {'kernel': kernel}}, x)))  # type: ignore[arg-type]

    def oracle(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = ('NHWC', 'HWIO', 'NHWC')
        return jnp.sum(
            jnp.sin(lax.conv_general_dilated(x, kernel, (stride,) * 2, [(1, 1)] * 2, dimension_numbers=layout))
        )

    traced = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel))
    parts = -(-batch // max(convolution.PART, -(-batch // convolution.MAX_PARTS)))
    # Forward, gradient of x, that of the kernel as a whole for accelerators, and in parts.
    assert traced.count('conv_general_dilated[') == 3 + parts and parts in (2, 8)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)
    with jax.enable_x64(True):
        expected, wanted = jax.value_and_grad(oracle, (0, 1))(
            jnp.asarray(x, jnp.float64), jnp.asarray(kernel, jnp.float64)
        )
        expected, wanted = np.asarray(expected), jax.tree.map(np.asarray, wanted)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for got, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize('batch, dtype', [(convolution.PART, 'float32'), (2 * convolution.PART, 'bfloat16')])
def test_small_batches_and_bfloat16_stay_whole(batch: int, dtype: str) -> None:
    x, kernel = jnp.ones((batch, 4, 4, 1), dtype), jnp.ones((3, 3, 1, 1), dtype)
    module = conv(1, 3, 1, jnp.dtype(dtype), 'conv', train=True)
    traced = str(jax.make_jaxpr(jax.grad(lambda k: module.apply({'params': {'kernel': k}}, x).sum()))(kernel))
    assert 'custom_vjp' not in traced and traced.count('conv_general_dilated[') == 2
