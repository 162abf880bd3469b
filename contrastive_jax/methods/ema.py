"""The slowly moving encoder: exponential moving averages of parameters, and the schedule of their momentum."""

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed.collectives import PyTree


def update(target: PyTree, online: PyTree, momentum: Array | float) -> PyTree:
    """theta_k <- m theta_k + (1 - m) theta_q (MoCo, eq. 2). Parameters only: BN statistics are the target's own.

    Args:
      target: parameters of the moving average.
      online: parameters of the trained network, of the same structure.
      momentum: m in [0, 1].

    Returns:
      The moved target; no gradient flows into it.
    """
    return jax.lax.stop_gradient(
        jax.tree.map(lambda k, q: (k * momentum + q * (1.0 - momentum)).astype(k.dtype), target, online)
    )


def cosine_momentum(progress: Array | float, momentum: float) -> Array:
    """Momentum that rises from `momentum` to 1 on a half cosine (MoCo v3 `--moco-m-cos`, BYOL).

    Args:
      progress: step / total steps, in [0, 1].
      momentum: the value at the start.
    """
    return 1.0 - 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) * (1.0 - momentum)
