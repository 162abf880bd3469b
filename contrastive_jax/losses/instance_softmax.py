"""The softmax over the instances of a batch, which pushes their features apart (InvaSpread, arXiv 1904.03436)."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import normalize


def instance_softmax(
    z1: Array, z2: Array, *, temperature: float, negative_multiplier: float = 1.0, axis_name: str | None = None
) -> Array:
    """Each of the 2B features is classified as its other view, and not as any other image (arXiv 1904.03436, eq. 6-8).

        P_ij = exp(x_i.x_j/T) / sum_{k != i} exp(x_i.x_k/T)
        J = -1/2B sum_i [ log P_ii+ + sum_{j != i, i+} log(1 - P_ij) ]

    As in the authors' code, the second factor x_j of every product is a constant: the gradient flows only into x_i.

    Args:
      z1: [B, D] features of the first view. Both views are L2-normalized here.
      z2: [B, D] features of the second view.
      temperature: T > 0.
      negative_multiplier: m >= 1, the weight of the negatives in the denominator and in the second sum ("negM" in the
        authors' code); 1 in the paper.
      axis_name: the mapped device axis; features are gathered over it.

    Returns:
      Scalar, the mean over both views of the (local) examples, at least float32.
    """
    z1, z2 = normalize(z1), normalize(z2)
    x = jnp.concatenate([z1, z2])  # [2b, D]
    keys = lax.stop_gradient(jnp.concatenate([collectives.all_gather(z, axis_name) for z in (z1, z2)]))  # [2B, D]
    B = keys.shape[0] // 2
    row = collectives.positions(z1.shape[0], axis_name)
    row = jnp.concatenate([row, row + B])[:, None]  # [2b, 1], the index of x among the keys
    column = jnp.arange(2 * B)
    itself, other_view = column == row, column == (row + B) % (2 * B)  # [2b, 2B]
    negative = ~(itself | other_view)

    logits = jnp.matmul(x, keys.T, precision=lax.Precision.HIGHEST) / temperature  # [2b, 2B]
    logits = jnp.where(itself, -jnp.inf, logits)
    weighted = logits + jnp.where(negative, math.log(negative_multiplier), 0.0)
    log_Z = jax.nn.logsumexp(weighted, axis=-1, keepdims=True)  # [2b, 1]
    log_p = logits - log_Z

    # log1p(-P) loses all digits near P = 1, where the gradient is largest. Only the hardest negative can have P near 1.
    # For it, 1 - P is computed as the sum over all other keys, divided by Z.
    hardest = negative & (column == jnp.argmax(jnp.where(negative, log_p, -jnp.inf), axis=-1, keepdims=True))
    log_excess = math.log(negative_multiplier - 1.0) if negative_multiplier > 1.0 else -math.inf
    others = jax.nn.logsumexp(jnp.where(hardest, logits + log_excess, weighted), axis=-1, keepdims=True)
    log_not_p = jnp.where(hardest, others - log_Z, jnp.log1p(-jnp.exp(jnp.where(negative & ~hardest, log_p, -1.0))))

    log_positive = jnp.sum(jnp.where(other_view, log_p, 0.0), axis=-1)  # [2b]
    log_negatives = jnp.sum(jnp.where(negative, log_not_p, 0.0), axis=-1)
    return -jnp.mean(log_positive + negative_multiplier * log_negatives)
