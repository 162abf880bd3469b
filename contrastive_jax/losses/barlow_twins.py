"""The loss of Barlow Twins (arXiv 2103.03230, eq. 1 and 2): the cross-correlation of two views becomes the identity.

    C_ij = sum_b z1_bi z2_bj / B          every dimension standardized over the batch, for each view apart
    L    = sum_i (1 - C_ii)^2  +  lambda sum_i sum_{j != i} C_ij^2

The first term makes the two views agree, the second one keeps the dimensions from repeating one another. Official
source: facebookresearch/barlowtwins, main.py, which standardizes with a BatchNorm without scale and offset.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32

VARIANCE_FLOOR = 1e-5  # added to the variance, as torch's BatchNorm does


class BarlowTwinsTerms(NamedTuple):
    """The sums over the cross-correlation matrix, scalars; the loss is on_diagonal + lambda off_diagonal."""

    on_diagonal: Array
    off_diagonal: Array


def barlow_twins(z1: Array, z2: Array, *, off_diagonal: float = 0.0051, axis_name: str | None = None) -> Array:
    """The loss of Barlow Twins. Every dimension is standardized here, over the global batch.

    Gradients flow into both views.

    Args:
      z1: [B, D] projections of the first views, at least two.
      z2: [B, D] projections of the second views of the same images.
      off_diagonal: lambda, the weight of the off-diagonal terms.
      axis_name: the mapped device axis; the correlation matrix, [D, D], is averaged over it.

    Returns:
      Scalar, at least float32, the same on all devices. It is a sum over dimensions, not a mean.
    """
    terms = barlow_twins_terms(z1, z2, axis_name=axis_name)
    return terms.on_diagonal + off_diagonal * terms.off_diagonal


def barlow_twins_terms(z1: Array, z2: Array, *, axis_name: str | None = None) -> BarlowTwinsTerms:
    """The terms of `barlow_twins`, which are logged too."""
    z1, z2 = (standardize(z, axis_name) for z in (z1, z2))
    # In full precision: most entries are near 0, where rounding in half precision would be a large part of them.
    c = collectives.pmean(jnp.matmul(z1.T, z2, precision=lax.Precision.HIGHEST) / len(z1), axis_name)  # [D, D]
    others = jnp.where(jnp.eye(len(c), dtype=bool), 0, c)
    return BarlowTwinsTerms(jnp.sum((1 - jnp.diagonal(c)) ** 2), jnp.sum(others**2))


def standardize(z: Array, axis_name: str | None = None) -> Array:
    """Gives every dimension of local rows [b, D] mean 0 and variance 1 over the global batch; at least float32."""
    z = at_least_float32(z)
    z = z - collectives.pmean(jnp.mean(z, axis=0), axis_name)
    variance = collectives.pmean(jnp.mean(z**2, axis=0), axis_name)  # [D], divided by B
    return z * lax.rsqrt(variance + VARIANCE_FLOOR)
