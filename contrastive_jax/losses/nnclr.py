"""The loss of NNCLR (arXiv 2104.14548, eq. 2 to 4): the nearest neighbor of one view, and a prediction of the other.

    L_i = -log( exp(nn(z_i).p_i / T) / sum_k exp(nn(z_i).p_k / T) )          k over the batch

nn(z, Q) is the row of the support set Q with the largest cosine similarity. It is InfoNCE within the batch, whose
queries are the neighbors and whose keys are the predictions; gradients flow into the predictions alone. There is no
official code.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput, info_nce_in_batch_terms
from contrastive_jax.losses.log_sum_exp import BLOCK_LOGITS, similarities
from contrastive_jax.losses.numerics import normalize


class Neighbors(NamedTuple):
    """The nearest neighbors of the local vectors.

    Attributes:
      rows: [b, D] rows of the support set, unit vectors.
      similarity: [b] their cosine similarities.
    """

    rows: Array
    similarity: Array


def nnclr(z: Array, p: Array, support: Array, *, temperature: float, axis_name: str | None = None) -> Array:
    """One direction of the loss of NNCLR; the method averages both directions.

    All vectors are L2-normalized here. z and the support set get no gradient.

    Args:
      z: [B, D] projections of one view, whose nearest neighbors are the queries.
      p: [B, D] predictions from the other view of the same images, the keys. They are gathered over the axis.
      support: [..., D] the support set; its leading axes are flattened. Under an axis each device passes its own shard.
      temperature: > 0; 0.1 in the paper.
      axis_name: the mapped device axis; None when the whole batch is on this device.

    Returns:
      Scalar, the mean over the (local) examples, at least float32.
    """
    neighbors = nearest_neighbors(z, support, axis_name=axis_name)
    return jnp.mean(nnclr_terms(neighbors.rows, p, temperature=temperature, axis_name=axis_name).loss)


def nnclr_terms(neighbors: Array, p: Array, *, temperature: float, axis_name: str | None = None) -> ContrastiveOutput:
    """The terms of `nnclr` of given neighbors [b, D], from which its metrics are computed too."""
    return info_nce_in_batch_terms(lax.stop_gradient(neighbors), p, temperature=temperature, axis_name=axis_name)


def nearest_neighbors(z: Array, support: Array, *, axis_name: str | None = None) -> Neighbors:
    """The row of the support set with the largest cosine similarity to each local vector.

    The vectors, B x D numbers, are gathered. Each device finds the best row of its own shard, and the device with the
    best one of all sends it: the shards stay where they are. Of equal similarities the first device wins.

    Args:
      z: [b, D] local vectors, normalized here.
      support: [..., D] this device's shard of the support set, normalized here.
      axis_name: the mapped device axis.

    Returns:
      The neighbors, without gradient.
    """
    support = normalize(lax.stop_gradient(support)).reshape(-1, support.shape[-1])  # [K, D], this device's shard
    queries = collectives.all_gather(normalize(lax.stop_gradient(z)), axis_name)  # [B, D]

    def best_of_shard(q: Array) -> tuple[Array, Array]:
        s = similarities(q[None], support)[0]  # [K]
        row = jnp.argmax(s)
        return s[row], row

    at_a_time = max(1, BLOCK_LOGITS // len(support))
    own, row = lax.map(best_of_shard, queries, batch_size=min(at_a_time, len(queries)))  # [B]
    best = collectives.pmax(own, axis_name)
    here, devices = collectives.axis_index(axis_name), collectives.axis_size(axis_name)
    winner = -collectives.pmax(jnp.where(own == best, -here, -devices), axis_name)
    rows = jnp.where((winner == here)[:, None], support[row], 0)
    return Neighbors(collectives.psum_scatter(rows, axis_name), collectives.local_rows(best, axis_name))
