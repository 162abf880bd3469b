"""Losses without negatives: the prediction from one view regresses the projection of the other (BYOL, SimSiam).

    BYOL, eq. 2 (arXiv 2006.07733)       || p/||p|| - z/||z|| ||^2  =  2 - 2 cos(p, z)
    SimSiam, eq. 1 (arXiv 2011.10566)    D(p, z)  =  -cos(p, z)

They differ in a constant, a factor and the norm floor. Each function computes one direction; BYOL sums both directions,
SimSiam averages them. No gradient flows into z: without this stop-gradient, an ablation, SimSiam collapses. No
collectives are needed: the pmean over the devices is the loss of the whole batch.
"""

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.losses.numerics import TENSORFLOW_NORM_FLOOR, TORCH_COSINE_FLOOR, normalize


def normalized_regression(p: Array, z: Array) -> Array:
    """Mean squared distance of unit vectors (BYOL's `regression_loss`), in [0, 4]; BYOL sums both directions.

    p and z are L2-normalized here.

    Args:
      p: [B, D] predictions of the online network from one view.
      z: [B, D] projections of the target network from the other view. They get no gradient.

    Returns:
      Scalar, the mean over the (local) examples, at least float32.
    """
    p, z = (normalize(x, TENSORFLOW_NORM_FLOOR) for x in (p, lax.stop_gradient(z)))
    return jnp.mean(jnp.sum((p - z) ** 2, axis=-1))


def negative_cosine(p: Array, z: Array, *, stop_gradient: bool = True) -> Array:
    """Mean of -cos(p, z), in [-1, 1]; SimSiam averages both directions.

    Args:
      p: [B, D] predictions from one view.
      z: [B, D] projections of the other view.
      stop_gradient: whether z gets no gradient, as in SimSiam.

    Returns:
      Scalar, the mean over the (local) examples, at least float32.
    """
    p, z = (normalize(x, TORCH_COSINE_FLOOR) for x in (p, lax.stop_gradient(z) if stop_gradient else z))
    return -jnp.mean(jnp.sum(p * z, axis=-1))
