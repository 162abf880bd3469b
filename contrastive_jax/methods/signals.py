"""What methods log of their losses and embeddings."""

import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.regression import negative_cosine


def contrast_metrics(terms: ContrastiveOutput, temperature: float, negative_mean: Array) -> dict[str, Array]:
    """Metrics of a contrastive loss: top-1 accuracy, and similarities as cosines.

    Args:
      terms: the terms of the local queries.
      temperature: the temperature that the logits were divided by.
      negative_mean: mean cosine similarity of a query and a negative.
    """
    positive = jnp.mean(terms.positive_logit) * temperature
    return {
        'contrastive_top1': jnp.mean(terms.correct),
        'positive_similarity': positive,
        'negative_similarity': negative_mean,
        'alignment': 2.0 - 2.0 * positive,  # mean squared distance of unit vectors (Wang & Isola 2020)
    }


def regression_metrics(p: Array, z: Array, axis_name: str | None = None) -> dict[str, Array]:
    """Metrics of a regression loss: similarity of predictions p and targets z, [b, D], and collapse of the targets."""
    positive = -negative_cosine(p, z)
    return {
        'positive_similarity': positive,
        'alignment': 2.0 - 2.0 * positive,
        'feature_std': feature_std(z, axis_name),
    }


def mean_negative_similarity(q: Array, k: Array, axis_name: str | None = None) -> Array:
    """Mean cosine similarity of the local queries and the keys of the other examples in the global batch.

    Args:
      q: [b, D] local queries, unit vectors.
      k: [b, D] local keys, unit vectors.
      axis_name: the mapped device axis.
    """
    B = q.shape[0] * collectives.axis_size(axis_name)
    mean_key = collectives.pmean(jnp.mean(k, axis=0), axis_name)  # [D]
    all_pairs, positive = jnp.mean(q @ mean_key), jnp.mean(jnp.sum(q * k, axis=-1))
    return (all_pairs * B - positive) / max(B - 1, 1)
