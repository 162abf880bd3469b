"""The nearest other examples of each example, by the cosine similarity of their features."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from contrastive_jax.errors import UserError

MAX_SIMILARITIES = 2**26  # in memory at a time: 256 MB in float32


def check_count(k: int, n: int) -> None:
    """Raises UserError if examples do not have `k` neighbors among `n` examples."""
    if not 1 <= k < n:
        remedy = f'choose from 1 to {n - 1}' if n > 1 else 'give more images'
        raise UserError(f'{k} neighbors of each of {n} images, which have {max(n - 1, 0)} others -> {remedy}')


def nearest_others(features: Any, k: int, *, max_similarities: int = MAX_SIMILARITIES) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest examples of each example, without itself.

    Examples are compared in blocks, so that a bounded number of similarities is in memory. Of examples with equal
    similarity, the one with the lower number is nearer.

    Args:
      features: float[n, D]; rows may have any length.
      k: number of neighbors, less than n.
      max_similarities: the number of similarities in memory at a time, if it is at least n.

    Returns:
      The numbers of the neighbors, int32[n, k], the nearest first, and their cosine similarities, float32[n, k].

    Raises:
      UserError: k is out of range, or a feature is not finite.
    """
    n = len(features)
    check_count(k, n)
    if not np.isfinite(features).all():
        raise UserError('features are not finite, so that they have no neighbors -> use another checkpoint')
    x = np.asarray(features, np.float32)
    unit = jnp.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
    block = max(1, min(n, max_similarities // n))
    parts = []
    for start in range(0, n, block):
        first = min(start, n - block)  # the last block overlaps, so that all are compiled once
        found = jax.device_get(_nearest(unit, first, size=block, k=k))
        parts.append(jax.tree.map(lambda rows, skip=start - first: rows[skip:], found))
    nearest, similarity = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return nearest, similarity


@functools.partial(jax.jit, static_argnames=('size', 'k'))
def _nearest(unit: Array, first: Array | int, *, size: int, k: int) -> tuple[Array, Array]:
    """The neighbors of the examples [first, first + size), for unit vectors [n, D]: as `nearest_others`."""
    rows = lax.dynamic_slice_in_dim(unit, first, size)
    similarity = jnp.matmul(rows, unit.T, precision=lax.Precision.HIGHEST)  # [size, n]
    itself = jnp.arange(len(unit)) == first + jnp.arange(size)[:, None]
    similarity, nearest = lax.top_k(jnp.where(itself, -jnp.inf, similarity), k)
    return nearest, jnp.clip(similarity, -1.0, 1.0)
