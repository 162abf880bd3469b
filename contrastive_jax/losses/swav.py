"""SwAV: codes from Sinkhorn-Knopp, predicted from the other crops (Caron et al., arXiv 2006.09882, eq. 1 to 5).

    Q = argmax_Q Tr(Q^T C^T Z) + eps H(Q)   over matrices that assign the batch evenly to the K prototypes
    L = -1/A sum_i 1/(V-1) sum_{v != i} q_i . log softmax(z_v C / T)

A of the V crops get codes: the two global ones. As in facebookresearch/swav, the codes are soft, and are computed from
scores that are not divided by the temperature.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32


def sinkhorn(scores: Array, *, epsilon: float = 0.05, iterations: int = 3, axis_name: str | None = None) -> Array:
    """Codes by the Sinkhorn-Knopp algorithm: soft assignments with nearly equal sums over the batch for all prototypes.

    Args:
      scores: [B, K] cosine similarities of examples and prototypes, not divided by a temperature. Under an axis each
        device passes its own examples, and the sums are over the examples of all devices.
      epsilon: regularization; larger values give softer codes.
      iterations: number of iterations; each normalizes the columns (prototypes), then the rows (examples).
      axis_name: the mapped device axis; None when the whole batch is on this device.

    Returns:
      [B, K] codes whose rows sum to 1; at least float32. No gradient flows through them.
    """
    scores = lax.stop_gradient(scores)  # first of all, because pmax has no derivative
    log_q = at_least_float32(scores) / epsilon
    # In logarithms, which do not overflow. The factors B and K of the official code cancel in the last normalization.
    for _ in range(iterations):
        top = collectives.pmax(jnp.max(log_q, axis=0), axis_name)  # [K]
        total = collectives.psum(jnp.sum(jnp.exp(log_q - top), axis=0), axis_name)
        log_q -= top + jnp.log(total)  # columns: equal sums for all prototypes
        log_q = jax.nn.log_softmax(log_q, axis=1)  # rows: equal sums for all examples
    return jnp.exp(log_q)


def swapped_prediction(
    scores: Sequence[Array] | Array, codes: Sequence[Array] | Array, *, temperature: float = 0.1
) -> Array:
    """Cross-entropy between the code of a crop and the predictions from the other crops of the image.

    Args:
      scores: [B, K] for each of V > 1 crops: cosine similarities with the prototypes.
      codes: [B, K] for each of the first A <= V crops: the result of `sinkhorn`. They get no gradient.
      temperature: > 0; it divides the scores.

    Returns:
      Scalar, the mean over the pairs of a code and another crop and over the (local) examples, at least float32. It is
      ln K if all predictions are uniform.
    """
    log_p = [jax.nn.log_softmax(at_least_float32(s) / temperature) for s in scores]
    losses = [
        -jnp.mean(jnp.sum(lax.stop_gradient(q) * log_p[v], axis=-1))
        for i, q in enumerate(codes)
        for v in range(len(scores))
        if v != i
    ]
    return sum(losses, jnp.zeros(())) / len(losses)
