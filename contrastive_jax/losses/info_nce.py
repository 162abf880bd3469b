"""InfoNCE: a query must find its own key among many (MoCo, arXiv 1911.05722, eq. 1; van den Oord et al., 1807.03748).

    L_q = -log( exp(q.k+/T) / (exp(q.k+/T) + sum_i exp(q.k_i/T)) )

`info_nce` takes the negatives from a dictionary (a queue or a bank); in `info_nce_in_batch` the other keys of the batch
are the negatives.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import normalize


class ContrastiveOutput(NamedTuple):
    """What looking the queries up in the dictionary gave; all in units of logits, similarity / temperature.

    Attributes:
      positive_logit: [B] logit of each query with its own key.
      logsumexp: [B] log-sum-exp over its own key and all negatives.
      hardest_negative: [B] the largest negative logit. No gradient.
    """

    positive_logit: Array
    logsumexp: Array
    hardest_negative: Array

    @property
    def loss(self) -> Array:
        """[B] cross-entropy of finding the own key."""
        return self.logsumexp - self.positive_logit

    @property
    def correct(self) -> Array:
        """[B] 1 where the own key beats every negative: the top-1 accuracy of the contrastive task."""
        return (self.positive_logit > self.hardest_negative).astype(self.positive_logit.dtype)


def info_nce(q: Array, k: Array, negatives: Array, *, temperature: float, axis_name: str | None = None) -> Array:
    """InfoNCE against a dictionary of negatives (MoCo v1 and v2).

    All three are L2-normalised here, which changes nothing if they already are. Gradients flow into q and k; stop them
    outside where the method does (MoCo: `lax.stop_gradient(k)`). The negatives never get one.

    Args:
      q: [B, D] queries.
      k: [B, D] their positive keys.
      negatives: [..., D] the dictionary, flattened over its leading axes. Under an axis every device gives its own
        part, which stays where it is: the queries travel.
      temperature: > 0; 0.07 in MoCo v1, 0.2 in MoCo v2.
      axis_name: the mapped device axis; None when the whole batch is here.

    Returns:
      Scalar, the mean over the (local) queries, at least float32.
    """
    return jnp.mean(info_nce_terms(q, k, negatives, temperature=temperature, axis_name=axis_name).loss)


def info_nce_in_batch(q: Array, k: Array, *, temperature: float, axis_name: str | None = None) -> Array:
    """InfoNCE in which the other keys of the global batch are the negatives (MoCo v3's `ctr`, end-to-end dictionaries).

    Both are L2-normalised here. Gradients flow into q and k; MoCo v3 stops those of k. MoCo v3's loss is 2T times this,
    in both orders, summed (arXiv 2104.02057, algorithm 1).

    Args:
      q: [B, D] queries.
      k: [B, D] keys; key i is the positive of query i.
      temperature: > 0.
      axis_name: the mapped device axis; keys are gathered over it.

    Returns:
      Scalar, the mean over the (local) queries, at least float32.
    """
    return jnp.mean(info_nce_in_batch_terms(q, k, temperature=temperature, axis_name=axis_name).loss)


def info_nce_terms(
    q: Array,
    k: Array,
    negatives: Array,
    *,
    temperature: float,
    axis_name: str | None = None,
    mask: Array | None = None,
) -> ContrastiveOutput:
    """`info_nce` example by example, with what its metrics need.

    Args:
      q: [B, D] queries.
      k: [B, D] their positive keys.
      negatives: [..., D] this device's part of the dictionary.
      temperature: > 0.
      axis_name: the mapped device axis.
      mask: bool, of negatives' leading axes; False entries take no part.

    Returns:
      A ContrastiveOutput of the local queries.
    """
    q, k = normalize(q), normalize(k)
    l_pos = jnp.sum(q * k, axis=-1) / temperature  # [b]
    negatives = normalize(lax.stop_gradient(negatives))
    log_sum, hardest = negative_terms(q, negatives, temperature=temperature, axis_name=axis_name, mask=mask)
    return ContrastiveOutput(l_pos, jnp.logaddexp(l_pos, log_sum), hardest)


def negative_terms(
    q: Array, negatives: Array, *, temperature: float, axis_name: str | None = None, mask: Array | None = None
) -> tuple[Array, Array]:
    """The part of a look-up that travels: queries, B x D, go to the dictionary, which stays where it is.

    Args:
      q: [b, D] local queries, as they are compared.
      negatives: [..., D] this device's part of the dictionary; no gradient reaches it.
      temperature: > 0.
      axis_name: the mapped device axis.
      mask: bool, of negatives' leading axes; False entries take no part.

    Returns:
      [b] log-sum-exp of the logits of all negatives, and the [b] largest of them, which has no gradient.
    """
    negatives = lax.stop_gradient(negatives).reshape(-1, q.shape[-1])  # [K, D], this device's part
    l_neg = similarities(collectives.all_gather(q, axis_name), negatives) / temperature  # [B, K]
    if mask is not None:
        l_neg = jnp.where(mask.reshape(-1), l_neg, -jnp.inf)
    hardest = collectives.pmax(jnp.max(lax.stop_gradient(l_neg), axis=-1), axis_name)  # [B]
    sum_exp = jnp.sum(jnp.exp(l_neg - hardest[:, None]), axis=-1)  # [B]
    sum_exp = collectives.psum_scatter(sum_exp, axis_name)  # [b], over the parts of all devices
    hardest = collectives.local_rows(hardest, axis_name)  # [b]
    return jnp.log(sum_exp) + hardest, hardest


def info_nce_in_batch_terms(
    q: Array, k: Array, *, temperature: float, axis_name: str | None = None
) -> ContrastiveOutput:
    """`info_nce_in_batch` example by example, with what its metrics need."""
    q, k = normalize(q), normalize(k)
    keys = collectives.all_gather(k, axis_name)  # [B, D]
    logits = similarities(q, keys) / temperature  # [b, B]
    labels = collectives.positions(q.shape[0], axis_name)  # [b]
    own = labels[:, None] == jnp.arange(keys.shape[0])  # [b, B]
    positive = jnp.sum(q * k, axis=-1) / temperature  # [b]
    hardest = jnp.max(jnp.where(own, -jnp.inf, lax.stop_gradient(logits)), axis=-1)  # [b]
    return ContrastiveOutput(positive, jax.nn.logsumexp(logits, axis=-1), hardest)


def similarities(q: Array, k: Array) -> Array:
    """[B, D], [K, D] -> [B, K]. Full precision: dividing by T = 0.07 multiplies rounding errors by 14."""
    return jnp.matmul(q, k.T, precision=lax.Precision.HIGHEST)
