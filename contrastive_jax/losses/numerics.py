"""Numerical conventions that the losses share: precision, normalization, norm floors, the value of a masked logit."""

import jax.numpy as jnp
from jax import Array, lax

# The smallest norm that a vector is divided by. The libraries that the authors used differ in it.
TORCH_NORM_FLOOR = 1e-12  # torch.nn.functional.normalize
TORCH_COSINE_FLOOR = 1e-8  # torch.nn.CosineSimilarity
TENSORFLOW_NORM_FLOOR = 1e-6  # tf.math.l2_normalize and BYOL: 1e-12 on the squared norm

# The value of a masked logit. It is finite, because all logits of a device may be masked, and -inf - (-inf) is NaN.
MASKED_LOGIT = -1e30


def at_least_float32(x: Array) -> Array:
    """Converts half-precision arrays to float32; float32 and float64 arrays stay as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def normalize(x: Array, floor: float = TORCH_NORM_FLOOR) -> Array:
    """L2-normalizes along the last axis, with a finite gradient at 0.

    Args:
      x: [..., D] vectors.
      floor: the smallest norm that a vector is divided by.

    Returns:
      [..., D], at least float32. Vectors whose norm is below `floor` are shorter than 1.
    """
    x = at_least_float32(x)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(square, jnp.asarray(floor, x.dtype) ** 2))
