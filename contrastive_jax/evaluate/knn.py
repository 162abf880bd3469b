"""Weighted k-nearest-neighbour classification of frozen features: no training, no hyper-parameter to tune.

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

# Similarities held at a time: 2^28 are 1 GiB in float32, or 209 test images against the 1.28 million of ImageNet.
MAX_SIMILARITIES = 2**28
MAX_CHUNK = 1024
# exp(1 / 0.012) is still finite in float32.
MIN_TEMPERATURE = 0.012


def knn_votes(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.07,
) -> Array:
    """Sums the votes exp(cosine / T) of each test example's k nearest training examples, by class.

    The test examples are taken in chunks, so that beside the features only `MAX_SIMILARITIES` similarities are held.
    Of training examples at the same distance the first counts as the nearer one.

    Args:
      train_features: float[n, D], of any length: they are L2-normalised here.
      train_labels: int[n], 0 to num_classes - 1.
      test_features: float[m, D].
      num_classes: C.
      k: neighbours that vote, at most n.
      temperature: T; small values let the nearest decide.

    Returns:
      float[m, C], not normalised; NaN where features are not finite.

    Raises:
      UserError: k, temperature, or a label out of range.
    """
    check_labels(train_labels, len(train_features), num_classes, 'training')
    if not 1 <= k <= len(train_features):
        raise UserError(f'kNN got k = {k} and {len(train_features)} training images -> choose k from 1 to their number')
    if not temperature >= MIN_TEMPERATURE:
        raise UserError(f'kNN got temperature = {temperature}, must be at least {MIN_TEMPERATURE} -> 0.07 is customary')
    m, chunk = len(test_features), max(1, min(MAX_CHUNK, MAX_SIMILARITIES // len(train_features), len(test_features)))
    test = jnp.pad(jnp.asarray(test_features), ((0, -m % chunk), (0, 0))).reshape(-1, chunk, test_features.shape[1])
    train, labels = jnp.asarray(train_features), jnp.asarray(train_labels)
    return _votes(train, labels, test, temperature, num_classes=num_classes, k=k)[:m]


@functools.partial(jax.jit, static_argnames=('num_classes', 'k'))
def _votes(train: Array, labels: Array, test: Array, temperature: Array | float, *, num_classes: int, k: int) -> Array:
    """As `knn_votes`, for test features [chunks, chunk, D]; returns [chunks * chunk, C]."""
    dtype = jnp.promote_types(train.dtype, jnp.float32)
    # The norms divide the similarities: a normalised copy of the training features might not fit beside them.
    train_norm = _norm(train, dtype)  # [n]

    def votes_of(x: Array) -> Array:
        dots = jnp.einsum('md,nd->mn', x, train, precision='highest', preferred_element_type=dtype)
        similarity, nearest = lax.top_k(dots / train_norm / _norm(x, dtype)[:, None], k)  # [chunk, k]
        weight = jnp.exp(similarity / temperature)
        # A masked sum over the classes, which XLA fuses, gives the same bits every time; scatter-add on a GPU does not.
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
    """Accuracy of the weighted kNN classifier; for the arguments see `knn_votes`.

    As in DINO's eval_knn.py, top5 looks at the first min(5, k) classes, and classes with equal votes (those without a
    vote, when few classes have one) are in the order of their number.

    Returns:
      {'top1', 'top5'}: fractions in [0, 1]; NaN if a feature is not finite.
    """
    check_labels(test_labels, len(test_features), num_classes, 'test')
    votes = knn_votes(train_features, train_labels, test_features, num_classes, k, temperature)
    return top_accuracies(votes, test_labels, min(5, k))


def top_accuracies(scores: Array, labels: Any, top: int = 5) -> dict[str, float]:
    """{'top1', 'top5'} of scores [m, C]; 'top5' among the best `top` classes. NaN if a score is not finite."""
    _, best = lax.top_k(scores, min(top, scores.shape[1]))
    hits = np.asarray(best) == np.asarray(labels)[:, None]
    if not bool(jnp.isfinite(scores).all()):
        return {'top1': float('nan'), 'top5': float('nan')}
    return {'top1': float(hits[:, 0].mean()), 'top5': float(hits.any(axis=1).mean())}


def check_labels(labels: Any, count: int, num_classes: int, what: str) -> None:
    """Raises UserError unless there are `count` > 0 labels from 0 to num_classes - 1 (-1 stands for unknown)."""
    labels = np.asarray(labels)
    if count == 0:
        raise UserError(f'the {what} set is empty -> evaluation needs at least one image')
    if labels.shape != (count,):
        raise UserError(f'{count} {what} features, but labels of shape {labels.shape} -> give one label an image')
    if (labels == -1).all():
        raise UserError(f'the {what} images have no labels -> kNN and probe need them; switch these evaluations off')
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f'{what} labels range from {labels.min()} to {labels.max()}, must lie in 0 to {num_classes - 1} '
            '-> mend the labels or the number of classes'
        )
