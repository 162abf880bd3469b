"""A measure of collapse that training logs for every step and evaluation computes on held-out features."""

import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import normalize


def feature_std(x: Array, axis_name: str | None = None) -> Array:
    """Standard deviation of the L2-normalized features over the batch, averaged over the dimensions, times sqrt(D).

    It is near 1 if the features are spread over the sphere, and 0 if all of them are equal (complete collapse). Chen &
    He, "Exploring Simple Siamese Representation Learning" (arXiv 2011.10566), section 4.1 and figure 2.

    Args:
      x: [B, D] features. They are L2-normalized here; a zero vector stays a zero vector.
      axis_name: the mapped device axis; the standard deviation is that of the global batch.

    Returns:
      Scalar, at least float32, the same on all devices.
    """
    z = normalize(x)
    mean = collectives.pmean(jnp.mean(z, axis=0), axis_name)  # [D]
    variance = collectives.pmean(jnp.mean((z - mean) ** 2, axis=0), axis_name)  # [D]
    return jnp.mean(jnp.sqrt(variance)) * z.shape[-1] ** 0.5
