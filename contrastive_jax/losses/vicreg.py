"""The loss of VICReg (arXiv 2105.04906, eq. 1 to 6): invariance, and variance and covariance of each view.

    s  =  mean_b mean_d (z1_bd - z2_bd)^2                          the two views agree
    v  =  mean_d max(0, 1 - std_d)           for each view         every dimension keeps a standard deviation of 1
    c  =  sum_d sum_{e != d} Cov_de^2 / D    for each view         dimensions do not repeat one another
    L  =  lambda s  +  mu (v1 + v2) / 2  +  nu (c1 + c2)

Factors are those of the official source, facebookresearch/vicreg, main_vicreg.py: in the paper s is a sum over the
dimensions, and v1 + v2 is not halved. Projections are not normalized.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32

VARIANCE_FLOOR = 1e-4  # added to the variance: the standard deviation has a finite gradient at 0


class VICRegTerms(NamedTuple):
    """The three terms, scalars without their weights.

    Attributes:
      invariance: s, the mean over the (local) examples.
      variance: (v1 + v2) / 2, of the global batch.
      covariance: c1 + c2, of the global batch.
    """

    invariance: Array
    variance: Array
    covariance: Array


def vicreg(
    z1: Array,
    z2: Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    axis_name: str | None = None,
) -> Array:
    """The loss of VICReg. Gradients flow into both views.

    Args:
      z1: [B, D] projections (expansions) of the first views, at least two.
      z2: [B, D] projections of the second views of the same images.
      invariance: lambda, the weight of the invariance term.
      variance: mu, the weight of the variance term.
      covariance: nu, the weight of the covariance term.
      axis_name: the mapped device axis; variances, and the covariance matrices [D, D], are averaged over it.

    Returns:
      Scalar, at least float32.
    """
    terms = vicreg_terms(z1, z2, axis_name=axis_name)
    return invariance * terms.invariance + variance * terms.variance + covariance * terms.covariance


def vicreg_terms(z1: Array, z2: Array, *, axis_name: str | None = None) -> VICRegTerms:
    """The terms of `vicreg`, which are logged too."""
    z1, z2 = at_least_float32(z1), at_least_float32(z2)
    (v1, c1), (v2, c2) = (_variance_and_covariance(z, axis_name) for z in (z1, z2))
    return VICRegTerms(jnp.mean((z1 - z2) ** 2), (v1 + v2) / 2, c1 + c2)


def _variance_and_covariance(z: Array, axis_name: str | None) -> tuple[Array, Array]:
    """The terms v and c of one view, local rows [b, D]; both divide by B - 1."""
    B, D = len(z) * collectives.axis_size(axis_name), z.shape[1]
    z = z - collectives.pmean(jnp.mean(z, axis=0), axis_name)
    square = jnp.matmul(z.T, z, precision=lax.Precision.HIGHEST) / (len(z) * (1 - 1 / B))
    cov = collectives.pmean(square, axis_name)  # [D, D]
    std = jnp.sqrt(jnp.diagonal(cov) + VARIANCE_FLOOR)  # [D]
    others = jnp.where(jnp.eye(D, dtype=bool), 0, cov)
    return jnp.mean(jnp.maximum(0, 1 - std)), jnp.sum(others**2) / D
