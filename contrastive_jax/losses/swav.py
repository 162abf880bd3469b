"""SwAV: codes from Sinkhorn-Knopp, predicted from the other crops (Caron et al., arXiv 2006.09882, eq. 1 to 5).

    Q = argmax_Q Tr(Q^T C^T Z) + eps H(Q)   over matrices that share the batch evenly among the K prototypes
    L = -1/A sum_i 1/(V-1) sum_{v != i} q_i . log softmax(z_v C / T)

A of the V crops are given codes: the two global ones. As in facebookresearch/swav, codes stay soft, and come from the
scores before they are divided by the temperature.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives


def sinkhorn(scores: Array, *, epsilon: float = 0.05, iterations: int = 3, axis_name: str | None = None) -> Array:
    """Codes: each example's shares of the prototypes, such that all prototypes get about the same of the whole batch.

    No gradient flows through them.

    Args:
      scores: [B, K] similarities of examples and prototypes, of unit vectors and not divided by a temperature. Under an
        axis every device gives its own examples, and the shares are those among the examples of all devices.
      epsilon: smoothness; larger is softer.
      iterations: of equal shares for the prototypes, then for the examples.
      axis_name: the mapped device axis; None when the whole batch is here.

    Returns:
      [B, K], rows sum to 1; at least float32.
    """
    scores = lax.stop_gradient(scores)  # at the door: pmax has no derivative
    log_q = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / epsilon
    # In logarithms, where no score is too large. The batch size and K of the official code cancel in the last line.
    for _ in range(iterations):
        greatest = collectives.pmax(jnp.max(log_q, axis=0), axis_name)  # [K]
        total = collectives.psum(jnp.sum(jnp.exp(log_q - greatest), axis=0), axis_name)
        log_q -= greatest + jnp.log(total)  # prototypes get the same
        log_q = jax.nn.log_softmax(log_q, axis=1)  # examples give the same
    return jnp.exp(log_q)


def swapped_prediction(
    scores: Sequence[Array] | Array, codes: Sequence[Array] | Array, *, temperature: float = 0.1
) -> Array:
    """The code of a crop is predicted from each other crop of the image.

    Args:
      scores: for each of V > 1 crops [B, K], similarities with the prototypes.
      codes: for each of the first A <= V crops [B, K], from `sinkhorn`. No gradient reaches them.
      temperature: > 0, of the predictions.

    Returns:
      Scalar, the mean over the pairs of a code and another crop and over the (local) examples, at least float32. ln K
      if nothing is learned: all predictions equal.
    """
    log_p = [jax.nn.log_softmax(_at_least_float32(s) / temperature) for s in scores]
    losses = [
        -jnp.mean(jnp.sum(lax.stop_gradient(q) * log_p[v], axis=-1))
        for i, q in enumerate(codes)
        for v in range(len(scores))
        if v != i
    ]
    return sum(losses, jnp.zeros(())) / len(losses)


def _at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
