"""NT-Xent: each view is classified among all other views of the batch (SimCLR, arXiv 2002.05709, eq. 1).

    l(i, j) = -log( exp(z_i.z_j/T) / sum_{k != i} exp(z_i.z_k/T) )        k over the 2B views

Every view is a query and a key, and gets gradients in both roles, from the queries of all devices. The official code
adds the mean over the first views to the mean over the second views, which is twice the paper's mean over all 2B views.
"""

import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput, negative_terms
from contrastive_jax.losses.log_sum_exp import summarize
from contrastive_jax.losses.numerics import TENSORFLOW_NORM_FLOOR, normalize


def nt_xent(z1: Array, z2: Array, *, temperature: float, unit: bool = True, axis_name: str | None = None) -> Array:
    """NT-Xent as in google-research/simclr: the mean over the first views plus the mean over the second views.

    Args:
      z1: [B, D] projections of the first views.
      z2: [B, D] projections of the second views of the same images.
      temperature: > 0; 0.1 on ImageNet, 0.5 on CIFAR-10.
      unit: whether to L2-normalize the projections (the official `hidden_norm`).
      axis_name: the mapped device axis; projections are gathered over it.

    Returns:
      Scalar, over the (local) examples, at least float32.
    """
    if unit:
        z1, z2 = (normalize(z, TENSORFLOW_NORM_FLOOR) for z in (z1, z2))
    return 2.0 * jnp.mean(nt_xent_terms(z1, z2, temperature=temperature, axis_name=axis_name).loss)


def nt_xent_with_memory(
    z1: Array, z2: Array, memory: Array, *, temperature: float, axis_name: str | None = None
) -> Array:
    """NT-Xent with the projections of earlier batches as additional negatives (SimCLR v2's memory, arXiv 2006.10029).

    z1, z2 and the memory are L2-normalized here. The memory gets no gradient.

    Args:
      z1: [B, D] projections of the first views.
      z2: [B, D] projections of the second views of the same images.
      memory: [..., D] the additional negatives; its leading axes are flattened. Under an axis each device passes its
        own shard.
      temperature: > 0.
      axis_name: the mapped device axis.

    Returns:
      Scalar, over the (local) examples, at least float32.
    """
    z1, z2, memory = (normalize(x, TENSORFLOW_NORM_FLOOR) for x in (z1, z2, memory))
    terms = nt_xent_terms(z1, z2, temperature=temperature, axis_name=axis_name)
    terms = add_negatives(terms, jnp.concatenate([z1, z2]), memory, temperature=temperature, axis_name=axis_name)
    return 2.0 * jnp.mean(terms.loss)


def nt_xent_terms(z1: Array, z2: Array, *, temperature: float, axis_name: str | None = None) -> ContrastiveOutput:
    """The terms of `nt_xent`, from which its metrics are computed too.

    Args:
      z1: [b, D] projections of the first views; they are not normalized here.
      z2: [b, D] projections of the second views; they are not normalized here.
      temperature: > 0.
      axis_name: the mapped device axis.

    Returns:
      The ContrastiveOutput of the 2b local views: the b first views, then the b second views.
    """
    position, B = collectives.positions(len(z1), axis_name), len(z1) * collectives.axis_size(axis_name)
    z = jnp.concatenate([z1, z2])  # [2b, D], queries and keys
    itself, other_view = (jnp.concatenate(x) for x in ((position, B + position), (B + position, position)))  # [2b]
    among_all = summarize(
        z, z, itself, temperature=temperature, itself=itself, positive=other_view, axis_name=axis_name
    )
    positive = jnp.tile(jnp.sum(z1 * z2, axis=-1) / temperature, 2)  # [2b]
    return ContrastiveOutput(positive, among_all.logsumexp, among_all.hardest)


def add_negatives(
    terms: ContrastiveOutput, z: Array, negatives: Array, *, temperature: float, axis_name: str | None = None
) -> ContrastiveOutput:
    """Adds the negatives of a dictionary to the terms of a contrastive loss.

    Args:
      terms: the terms of the local queries.
      z: [b, D] the local queries; they are not normalized here.
      negatives: [..., D] this device's shard of the dictionary, not normalized here. It gets no gradient.
      temperature: > 0.
      axis_name: the mapped device axis.

    Returns:
      The terms of the same queries, with more negatives.
    """
    log_sum, hardest = negative_terms(z, negatives, temperature=temperature, axis_name=axis_name)
    return ContrastiveOutput(
        terms.positive_logit, jnp.logaddexp(terms.logsumexp, log_sum), jnp.maximum(terms.hardest_negative, hardest)
    )
