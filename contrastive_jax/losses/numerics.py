"""Numerical conventions that the losses share: unit vectors, the floors of their norms, the value of a masked logit."""

import jax.numpy as jnp
from jax import Array, lax

# The smallest norm that a vector is divided by. The authors' libraries differ in it.
TORCH_NORM_FLOOR = 1e-12  # torch.nn.functional.normalize
TORCH_COSINE_FLOOR = 1e-8  # torch.nn.CosineSimilarity
TENSORFLOW_NORM_FLOOR = 1e-6  # tf.math.l2_normalize and BYOL: 1e-12 on the square of the norm

# A masked logit. It is finite, because all logits of a device may be masked, and -inf - (-inf) is NaN.
MASKED_LOGIT = -1e30


def normalize(x: Array, floor: float = TORCH_NORM_FLOOR) -> Array:
    """Unit vectors along the last axis, at least float32, with a finite gradient at 0.

    Args:
      x: [..., D].
      floor: the smallest norm that a vector is divided by.

    Returns:
      [..., D], float32 or wider.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(square, jnp.asarray(floor, x.dtype) ** 2))
