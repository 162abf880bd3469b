"""Cross-entropy with classes that the data gives for nothing: positions, permutations, images, clusters.

It is the loss of relative position (arXiv 1505.05192), jigsaw (1603.09246), exemplar (1406.6909) and DeepCluster
(1807.05520, eq. 1).
"""

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32


def cross_entropy(logits: Array, labels: Array, *, weights: Array | None = None, axis_name: str | None = None) -> Array:
    """The mean of -log softmax(logits)[label] over the examples.

    Args:
      logits: [B, K].
      labels: int32[B] in [0, K).
      weights: [B], factors of the examples' losses; those with weight 0 are ignored. None: all are 1.
      axis_name: the mapped device axis; with weights, the examples that are not ignored are counted over it.

    Returns:
      Scalar, at least float32. Its mean over the devices is the loss of the whole batch.
    """
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    losses = -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]  # [B]
    if weights is None:
        return jnp.mean(losses)
    weights = weights.astype(losses.dtype)
    # Every device divides by the mean count, so that the mean over the devices is the mean over the examples.
    count = collectives.pmean(jnp.sum((weights > 0).astype(losses.dtype)), axis_name)
    return jnp.sum(weights * losses) / jnp.maximum(count, 1.0)
