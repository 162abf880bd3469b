"""NT-Xent: a view must find the other one of its image among all views (SimCLR, arXiv 2002.05709, eq. 1).

    l(i, j) = -log( exp(z_i.z_j/T) / sum_{k != i} exp(z_i.z_k/T) )        k over the 2B views

Every view is a query, and the gradient reaches it as a key, too: on the other devices as on its own. The official code
sums the mean over the first views and the mean over the second, which is twice the paper's mean over all 2B.
"""

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput, negative_terms, similarities
from contrastive_jax.losses.numerics import TENSORFLOW_NORM_FLOOR, normalize


def nt_xent(z1: Array, z2: Array, *, temperature: float, unit: bool = True, axis_name: str | None = None) -> Array:
    """NT-Xent as in google-research/simclr: the mean over the first views plus the mean over the second.

    Args:
      z1: [B, D] projections of the first views.
      z2: [B, D] of the second views of the same images.
      temperature: > 0; 0.1 on ImageNet, 0.5 on CIFAR-10.
      unit: L2-normalise them (the official `hidden_norm`).
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
    """NT-Xent with the projections of earlier batches as further negatives (SimCLR v2's memory, arXiv 2006.10029).

    Args:
      z1: [B, D] projections of the first views, L2-normalised here, as all three are.
      z2: [B, D] of the second views of the same images.
      memory: [..., D] the negatives, flattened over the leading axes; they get no gradient. Under an axis every device
        gives its own part, which stays where it is.
      temperature: > 0.
      axis_name: the mapped device axis.

    Returns:
      Scalar, over the (local) examples, at least float32.
    """
    z1, z2, memory = (normalize(x, TENSORFLOW_NORM_FLOOR) for x in (z1, z2, memory))
    found = nt_xent_terms(z1, z2, temperature=temperature, axis_name=axis_name)
    found = add_negatives(found, jnp.concatenate([z1, z2]), memory, temperature=temperature, axis_name=axis_name)
    return 2.0 * jnp.mean(found.loss)


def nt_xent_terms(z1: Array, z2: Array, *, temperature: float, axis_name: str | None = None) -> ContrastiveOutput:
    """Looks each view up among all others.

    Args:
      z1: [b, D] projections of the first views, as they are compared.
      z2: [b, D] of the second views.
      temperature: > 0.
      axis_name: the mapped device axis.

    Returns:
      A ContrastiveOutput of the 2b local views, the first ones first.
    """
    z = jnp.concatenate([z1, z2])  # [2b, D]
    all1, all2 = collectives.all_gather(z1, axis_name), collectives.all_gather(z2, axis_name)  # [B, D]
    own = collectives.positions(z1.shape[0], axis_name)[:, None] == jnp.arange(all1.shape[0])  # [b, B]
    none = jnp.zeros_like(own)
    logits = similarities(z, jnp.concatenate([all1, all2])) / temperature  # [2b, 2B]
    itself = jnp.block([[own, none], [none, own]])
    other = jnp.block([[none, own], [own, none]])
    logits = jnp.where(itself, -1e9, logits)
    positive = jnp.tile(jnp.sum(z1 * z2, axis=-1) / temperature, 2)  # [2b]
    hardest = jnp.max(jnp.where(other, -jnp.inf, jax.lax.stop_gradient(logits)), axis=-1)
    return ContrastiveOutput(positive, jax.nn.logsumexp(logits, axis=-1), hardest)


def add_negatives(
    found: ContrastiveOutput, z: Array, negatives: Array, *, temperature: float, axis_name: str | None = None
) -> ContrastiveOutput:
    """The same queries with more negatives.

    Args:
      found: of the queries.
      z: [b, D] the queries.
      negatives: [..., D] this device's part of them; no gradient reaches it.
      temperature: > 0.
      axis_name: the mapped device axis.
    """
    log_sum, hardest = negative_terms(z, negatives, temperature=temperature, axis_name=axis_name)
    return ContrastiveOutput(
        found.positive_logit, jnp.logaddexp(found.logsumexp, log_sum), jnp.maximum(found.hardest_negative, hardest)
    )
