"""InfoNCE: a query is classified among a positive and many negative keys (MoCo, arXiv 1911.05722, eq. 1; 1807.03748).

    L_q = -log( exp(q.k+/T) / (exp(q.k+/T) + sum_i exp(q.k_i/T)) )

`info_nce` takes the negatives from a dictionary (a queue or a memory bank). In `info_nce_in_batch` the negatives are
the keys of the other examples of the batch.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.log_sum_exp import Summary, summarize
from contrastive_jax.losses.numerics import normalize


class ContrastiveOutput(NamedTuple):
    """The terms of a contrastive loss for each query. A logit is a similarity divided by the temperature.

    Attributes:
      positive_logit: [B] logit of each query and its positive key.
      logsumexp: [B] log-sum-exp of the logits of the positive key and all negatives.
      hardest_negative: [B] the largest logit of a negative. No gradient flows through it.
    """

    positive_logit: Array
    logsumexp: Array
    hardest_negative: Array

    @property
    def loss(self) -> Array:
        """[B] cross-entropy, with the positive key as the correct class."""
        return self.logsumexp - self.positive_logit

    @property
    def correct(self) -> Array:
        """[B] 1.0 where the positive logit is larger than all negative logits, else 0.0: contrastive top-1 accuracy."""
        return (self.positive_logit > self.hardest_negative).astype(self.positive_logit.dtype)


def info_nce(q: Array, k: Array, negatives: Array, *, temperature: float, axis_name: str | None = None) -> Array:
    """InfoNCE with the negatives of a dictionary (MoCo v1 and v2).

    q, k and the negatives are L2-normalized here. Gradients flow into q and k; pass `lax.stop_gradient(k)` if the
    method stops them, as MoCo does. The negatives get no gradient.

    Args:
      q: [B, D] queries.
      k: [B, D] keys; key i is the positive of query i.
      negatives: [..., D] the dictionary; its leading axes are flattened. Under an axis each device passes its own
        shard; the queries are gathered, the dictionary is not.
      temperature: > 0; 0.07 in MoCo v1, 0.2 in MoCo v2.
      axis_name: the mapped device axis; None when the whole batch is on this device.

    Returns:
      Scalar, the mean over the (local) queries, at least float32.
    """
    return jnp.mean(info_nce_terms(q, k, negatives, temperature=temperature, axis_name=axis_name).loss)


def info_nce_in_batch(q: Array, k: Array, *, temperature: float, axis_name: str | None = None) -> Array:
    """InfoNCE with the other keys of the global batch as negatives (MoCo v3, end-to-end dictionaries).

    q and k are L2-normalized here. Gradients flow into both; MoCo v3 stops the gradient of k. The loss of MoCo v3 is 2T
    times this one, summed over both orders of the views (arXiv 2104.02057, algorithm 1).

    Args:
      q: [B, D] queries.
      k: [B, D] keys; key i is the positive of query i.
      temperature: > 0.
      axis_name: the mapped device axis; the keys are gathered over it.

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
    """The terms of `info_nce`, from which its metrics are computed too.

    Args:
      q: [b, D] local queries.
      k: [b, D] their positive keys.
      negatives: [..., D] this device's shard of the dictionary.
      temperature: > 0.
      axis_name: the mapped device axis.
      mask: bool[...], the leading axes of `negatives`; False entries are ignored.

    Returns:
      The ContrastiveOutput of the local queries.
    """
    q, k = normalize(q), normalize(k)
    l_pos = jnp.sum(q * k, axis=-1) / temperature  # [b]
    negatives = normalize(lax.stop_gradient(negatives))
    log_sum, hardest = negative_terms(q, negatives, temperature=temperature, axis_name=axis_name, mask=mask)
    return ContrastiveOutput(l_pos, jnp.logaddexp(l_pos, log_sum), hardest)


def negative_terms(
    q: Array, negatives: Array, *, temperature: float, axis_name: str | None = None, mask: Array | None = None
) -> tuple[Array, Array]:
    """The negatives' part of InfoNCE with a dictionary that is sharded over the devices.

    The queries, B x D numbers, are gathered; each device scores them against its own shard.

    Args:
      q: [b, D] local queries; they are not normalized here.
      negatives: [..., D] this device's shard of the dictionary, not normalized here. It gets no gradient.
      temperature: > 0.
      axis_name: the mapped device axis.
      mask: bool[...], the leading axes of `negatives`; False entries are ignored.

    Returns:
      The log-sum-exp [b] of the logits of all negatives, and the largest of these logits [b], without gradient.
    """
    negatives = lax.stop_gradient(negatives).reshape(-1, q.shape[-1])  # [K, D], this device's shard
    ids = jnp.arange(len(negatives))
    if mask is not None:
        ids = jnp.where(mask.reshape(-1), ids, -1)
    queries = collectives.all_gather(q, axis_name)  # [B, D]
    own = summarize(queries, negatives, ids, temperature=temperature)  # of this device's shard
    return combine_shards(own, axis_name)


def combine_shards(own: Summary, axis_name: str | None) -> tuple[Array, Array]:
    """Summaries [B] over each device's shard of the keys -> log-sum-exp and hardest [b] of the local queries."""
    hardest, top = (collectives.pmax(lax.stop_gradient(x), axis_name) for x in (own.hardest, own.top))  # [B]
    sum_exp = collectives.psum_scatter(own.sum_exp * jnp.exp(own.top - top), axis_name)  # [b]
    hardest, top = (collectives.local_rows(x, axis_name) for x in (hardest, top))
    return jnp.log(sum_exp) + top, hardest


def info_nce_in_batch_terms(
    q: Array, k: Array, *, temperature: float, axis_name: str | None = None
) -> ContrastiveOutput:
    """The terms of `info_nce_in_batch`, from which its metrics are computed too."""
    q, k = normalize(q), normalize(k)
    position = collectives.positions(len(k), axis_name)  # [b]
    among_all = summarize(q, k, position, temperature=temperature, positive=position, axis_name=axis_name)
    return ContrastiveOutput(jnp.sum(q * k, axis=-1) / temperature, among_all.logsumexp, among_all.hardest)
