"""Exponential moving averages of parameters, and the schedule of their momentum."""

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed.collectives import PyTree


def update(target: PyTree, online: PyTree, momentum: Array | float) -> PyTree:
    """theta_k <- m theta_k + (1 - m) theta_q (MoCo, eq. 2).

    It is for parameters only: a target network has its own BN statistics.

    Args:
      target: parameters of the moving average, theta_k.
      online: parameters of the trained network, theta_q, with the same structure.
      momentum: m in [0, 1].

    Returns:
      The new parameters of the moving average. No gradient flows through them.
    """
    return jax.lax.stop_gradient(
        jax.tree.map(lambda k, q: (k * momentum + q * (1.0 - momentum)).astype(k.dtype), target, online)
    )


def cosine_momentum(progress: Array | float, momentum: float) -> Array:
    """The momentum, which increases from `momentum` to 1 along half a cosine (MoCo v3 `--moco-m-cos`, BYOL).

    Args:
      progress: step / total steps, in [0, 1].
      momentum: the value at the start.
    """
    return 1.0 - 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) * (1.0 - momentum)
