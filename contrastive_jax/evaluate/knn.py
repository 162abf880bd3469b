"""Weighted k-nearest-neighbor classification of frozen features, without training.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (2018), section 3.4: k = 200;
Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO, 2021): k = 20. Both with T = 0.07.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from contrastive_jax.errors import UserError

# Similarities in memory at a time: 2^28 take 1 GiB in float32, which is 209 test images against all of ImageNet.
MAX_SIMILARITIES = 2**28
MAX_CHUNK = 1024
# exp(1 / 0.012) is finite in float32; smaller temperatures overflow.
MIN_TEMPERATURE = 0.012


def knn_votes(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.07,
) -> Array:
    """Sums the votes exp(cosine / T) of the k nearest training examples of each test example, by class.

    Test examples are processed in chunks, so that at most `MAX_SIMILARITIES` similarities are in memory. Of training
    examples with equal similarity, the one with the lower index counts as nearer.

    Args:
      train_features: float[n, D]; rows may have any length, they are L2-normalized here.
      train_labels: int[n], 0 to num_classes - 1.
      test_features: float[m, D].
      num_classes: C.
      k: number of neighbors that vote, at most n.
      temperature: T; the smaller it is, the more weight the nearest neighbors have.

    Returns:
      float[m, C], sums of votes, not normalized; NaN where features are not finite.

    Raises:
      UserError: k, the temperature or a label is out of range.
    """
    check_labels(train_labels, len(train_features), num_classes, 'training')
    if not 1 <= k <= len(train_features):
        raise UserError(
            f'kNN got k = {k} and {len(train_features)} training images -> choose k from 1 to {len(train_features)}'
        )
    if not temperature >= MIN_TEMPERATURE:
        raise UserError(f'kNN got temperature = {temperature}, must be at least {MIN_TEMPERATURE} -> papers use 0.07')
    m, chunk = len(test_features), max(1, min(MAX_CHUNK, MAX_SIMILARITIES // len(train_features), len(test_features)))
    test = jnp.pad(jnp.asarray(test_features), ((0, -m % chunk), (0, 0))).reshape(-1, chunk, test_features.shape[1])
    train, labels = jnp.asarray(train_features), jnp.asarray(train_labels)
    return _votes(train, labels, test, temperature, num_classes=num_classes, k=k)[:m]


@functools.partial(jax.jit, static_argnames=('num_classes', 'k'))
def _votes(train: Array, labels: Array, test: Array, temperature: Array | float, *, num_classes: int, k: int) -> Array:
    """Computes `knn_votes` for test features [chunks, chunk, D]; returns [chunks * chunk, C]."""
    dtype = jnp.promote_types(train.dtype, jnp.float32)
    # Similarities are divided by the norms: a normalized copy of the training features might not fit into memory.
    train_norm = _norm(train, dtype)  # [n]

    def votes_of(x: Array) -> Array:
        dots = jnp.einsum('md,nd->mn', x, train, precision='highest', preferred_element_type=dtype)
        similarity, nearest = lax.top_k(dots / train_norm / _norm(x, dtype)[:, None], k)  # [chunk, k]
        weight = jnp.exp(similarity / temperature)
        # A masked sum over classes, which XLA fuses, is deterministic; scatter-add on a GPU is not.
        is_class = labels[nearest][:, :, None] == jnp.arange(num_classes)
        return jnp.where(is_class, weight[:, :, None], 0).sum(axis=1)

    return lax.map(votes_of, test).reshape(-1, num_classes)


def _norm(x: Array, dtype: Any) -> Array:
    return jnp.maximum(jnp.linalg.norm(x.astype(dtype), axis=1), 1e-12)


def knn_accuracy(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    test_labels: Any,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.07,
) -> dict[str, float]:
    """Accuracy of the weighted kNN classifier.

    As in DINO's eval_knn.py, top5 uses the best min(5, k) classes, and classes with equal votes (such as those without
    any vote) are ordered by their number.

    Args:
      train_features, train_labels, test_features, num_classes, k, temperature: as in `knn_votes`.
      test_labels: int[m], 0 to num_classes - 1.

    Returns:
      {'top1', 'top5'}: fractions in [0, 1]; NaN if a feature is not finite.

    Raises:
      UserError: k, the temperature or a label is out of range.
    """
    check_labels(test_labels, len(test_features), num_classes, 'test')
    votes = knn_votes(train_features, train_labels, test_features, num_classes, k, temperature)
    return top_accuracies(votes, test_labels, min(5, k))


def top_accuracies(scores: Array, labels: Any, top: int = 5) -> dict[str, float]:
    """Top-1 and top-5 accuracy of class scores.

    Args:
      scores: float[m, C].
      labels: int[m].
      top: number of best classes among which 'top5' looks for the label.

    Returns:
      {'top1', 'top5'}: fractions in [0, 1]; NaN if a score is not finite.
    """
    _, best = lax.top_k(scores, min(top, scores.shape[1]))
    hits = np.asarray(best) == np.asarray(labels)[:, None]
    if not bool(jnp.isfinite(scores).all()):
        return {'top1': float('nan'), 'top5': float('nan')}
    return {'top1': float(hits[:, 0].mean()), 'top5': float(hits.any(axis=1).mean())}


def check_labels(labels: Any, count: int, num_classes: int, what: str) -> None:
    """Checks the labels of a data set.

    Args:
      labels: int[count]; -1 means that the label is unknown.
      count: number of examples.
      num_classes: C.
      what: name of the data set in messages, such as 'training'.

    Raises:
      UserError: there are no examples, their number is not that of the labels, or a label is not in 0 to C - 1.
    """
    labels = np.asarray(labels)
    if count == 0:
        raise UserError(f'the {what} set is empty -> evaluation needs at least one image')
    if labels.shape != (count,):
        raise UserError(f'{count} {what} features, but labels of shape {labels.shape} -> give one label for each image')
    if (labels == -1).all():
        raise UserError(
            f'the {what} images have no labels -> kNN and linear probe need them; turn these evaluations off'
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f'{what} labels range from {labels.min()} to {labels.max()}, must lie in 0 to {num_classes - 1} '
            '-> correct the labels or the number of classes'
        )
