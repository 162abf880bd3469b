"""The linear probe on cached features: how far does one linear layer get on the frozen representation?

The encoder runs once over the data, without augmentation, so no gradient can reach it, and the classifier is the one
optimum of a convex problem: no learning rate, no schedule, no seed. It answers in seconds and says the same thing each
time. The protocols of the papers (SGD for 90 to 100 epochs with random crops) come out some points higher.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.tree_utils as otu
from jax import Array, lax

from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.knn import check_labels, top_accuracies

Params = dict[str, Array]

L2, MAX_ITERATIONS, TOLERANCE = 1e-4, 100, 1e-5


def linear_probe(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    test_labels: Any,
    num_classes: int,
    *,
    l2: float = L2,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Fits multinomial logistic regression to the training features and scores it on the test features.

    Minimises mean cross-entropy + l2/2 ||W||^2 (scikit-learn's C is 1 / (l2 n)) by full-batch L-BFGS on features
    standardised by the training set's mean and deviation. Holds logits [n, C] beside the features.

    Args:
      train_features: float[n, D].
      train_labels: int[n], 0 to num_classes - 1.
      test_features: float[m, D].
      test_labels: int[m].
      num_classes: C.
      l2: weight of the penalty; the bias is free.
      max_iterations: of L-BFGS.
      tolerance: stops once no element of the gradient is larger.

    Returns:
      'top1' and 'top5' on the test set, 'train_top1', 'train_loss' (the minimised value) and 'iterations'.
      NaN where features are not finite.

    Raises:
      UserError: a label out of range, or none at all.
    """
    check_labels(train_labels, len(train_features), num_classes, 'training')
    check_labels(test_labels, len(test_features), num_classes, 'test')
    train, test = _standardise(jnp.asarray(train_features), jnp.asarray(test_features))
    params, loss, iterations = _fit(
        train, jnp.asarray(train_labels), l2, tolerance, num_classes=num_classes, max_iterations=max_iterations
    )
    return {
        **top_accuracies(_logits(params, test), test_labels),
        'train_top1': top_accuracies(_logits(params, train), train_labels)['top1'],
        'train_loss': float(loss),
        'iterations': int(iterations),
    }


def predictions(train_features: Any, train_labels: Any, test_features: Any, num_classes: int) -> np.ndarray:
    """The class that the probe, as `linear_probe` fits it by default, gives each test example: int[m].

    Args:
      train_features: float[n, D].
      train_labels: int[n], 0 to num_classes - 1.
      test_features: float[m, D].
      num_classes: C.

    Raises:
      UserError: a label out of range, none at all, or features that are not finite.
    """
    check_labels(train_labels, len(train_features), num_classes, 'training')
    train, test = _standardise(jnp.asarray(train_features), jnp.asarray(test_features))
    params, _, _ = _fit(
        train, jnp.asarray(train_labels), L2, TOLERANCE, num_classes=num_classes, max_iterations=MAX_ITERATIONS
    )
    logits = np.asarray(_logits(params, test))
    if not np.isfinite(logits).all():
        raise UserError('the features are not finite -> look at the loss, and use an older checkpoint')
    return logits.argmax(axis=1)


@jax.jit
def _standardise(train: Array, test: Array) -> tuple[Array, Array]:
    """Both sets by the training set's statistics, dimension by dimension."""
    dtype = jnp.promote_types(train.dtype, jnp.float32)
    train, test = train.astype(dtype), test.astype(dtype)
    mean, std = train.mean(axis=0), train.std(axis=0)
    # A dimension that is constant but for rounding stays near zero instead of being blown up to unit noise.
    std = jnp.where(std <= 1e-6 * jnp.abs(mean), 1, std)
    return (train - mean) / std, (test - mean) / std


@jax.jit
def _logits(params: Params, x: Array) -> Array:
    return jnp.matmul(x, params['weight'], precision='highest') + params['bias']


@functools.partial(jax.jit, static_argnames=('num_classes', 'max_iterations'))
def _fit(
    x: Array, labels: Array, l2: Array | float, tolerance: Array | float, *, num_classes: int, max_iterations: int
) -> tuple[Params, Array, Array]:
    """Returns the parameters, the loss there, and the number of iterations."""

    def loss_of(params: Params) -> Array:
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), labels).mean()
        return cross_entropy + l2 / 2 * jnp.sum(params['weight'] ** 2)

    lbfgs = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss_of)  # reuses what the line search has computed

    def step(carry: tuple[Params, Any, Array, Array]) -> tuple[Params, Any, Array, Array]:
        params, state, _, i = carry
        loss, grads = value_and_grad(params, state=state)
        updates, state = lbfgs.update(grads, state, params, value=loss, grad=grads, value_fn=loss_of)
        largest = otu.tree_max(jax.tree.map(jnp.abs, otu.tree_get(state, 'grad')))
        return optax.apply_updates(params, updates), state, largest, i + 1

    def unfinished(carry: tuple[Params, Any, Array, Array]) -> Array:
        _, _, largest, i = carry
        return (largest > tolerance) & (i < max_iterations)  # a NaN ends it, too

    start = {'weight': jnp.zeros((x.shape[1], num_classes), x.dtype), 'bias': jnp.zeros(num_classes, x.dtype)}
    first = (start, lbfgs.init(start), jnp.asarray(jnp.inf, x.dtype), jnp.asarray(0))
    params, _, _, iterations = lax.while_loop(unfinished, step, first)
    return params, loss_of(params), iterations
