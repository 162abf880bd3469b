"""Signals of collapse: measures, without labels, of how different the features of different images are.

All take features [B, D] and return a scalar of at least float32; they may run inside a compiled step. A zero vector
counts as a zero vector, not as NaN. The third signal, `feature_std`, is in losses/collapse.py, because training logs
it too.
"""

import jax.numpy as jnp
from jax import Array

from contrastive_jax.losses.numerics import at_least_float32, normalize


def effective_rank(x: Array, epsilon: float = 1e-7) -> Array:
    """Number of dimensions in use, from 1 (a line: collapse) to min(B, D): exp of the entropy of the singular values.

    x: [B, D], neither centered nor normalized. Garrido et al., "RankMe: Assessing the Downstream Performance of
    Pretrained Self-Supervised Representations by Their Rank" (2023), equation 1. Estimates need B well above D.
    """
    singular_values = jnp.linalg.svd(at_least_float32(x), compute_uv=False)
    p = singular_values / jnp.maximum(singular_values.sum(), 1e-30) + epsilon
    return jnp.exp(-jnp.sum(p * jnp.log(p)))


def uniformity(x: Array, t: float = 2.0) -> Array:
    """log of the mean of exp(-t d^2) over the pairs of x [B, D] on the sphere: 0 = collapsed, near -2t = uniform.

    Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere" (2020). Holds [B, B] distances.

    Raises:
      ValueError: fewer than two examples, which have no pair.
    """
    if len(x) < 2:
        raise ValueError(f'uniformity is a mean over pairs: needs at least 2 examples, got {len(x)}')
    z = normalize(x)
    squares = jnp.sum(z**2, axis=1)
    dots = jnp.matmul(z, z.T, precision='highest')
    distance2 = jnp.maximum(squares[:, None] + squares - 2 * dots, 0)  # |a|^2 + |b|^2 - 2ab, rounding kept from below 0
    pairs = ~jnp.eye(len(z), dtype=bool)
    return jnp.log(jnp.mean(jnp.exp(-t * distance2), where=pairs))
