"""The fast linear probe: logistic regression, fitted by L-BFGS to features that were computed once.

The encoder runs once over the data without augmentation. The classifier is the optimum of a convex problem, so there is
no learning rate, no schedule and no seed: it takes seconds and is deterministic. The linear evaluation of the papers,
SGD for 90 to 100 epochs on random crops, is in `protocols/linear.py`; its accuracy is some points higher.
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

L2, MAX_ITERATIONS, TOLERANCE = 1e-4, 1000, 1e-5


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
    """Fits multinomial logistic regression to the training features and measures its accuracy on the test features.

    It minimizes mean cross-entropy + l2/2 ||W||^2 (scikit-learn's C is 1 / (l2 n)) by full-batch L-BFGS on features
    that are standardized by the mean and standard deviation of the training set. The bias is not penalized. Memory:
    the features and logits [n, C].

    Args:
      train_features: float[n, D].
      train_labels: int[n], 0 to num_classes - 1.
      test_features: float[m, D].
      test_labels: int[m].
      num_classes: C.
      l2: weight of the L2 penalty.
      max_iterations: the largest number of L-BFGS iterations.
      tolerance: L-BFGS stops when no element of the gradient is larger.

    Returns:
      'top1' and 'top5' on the test set, 'train_top1', 'train_loss' (the minimized value) and 'iterations'.
      NaN where features are not finite.

    Raises:
      UserError: a label is out of range, or there are no labels.
    """
    check_labels(train_labels, len(train_features), num_classes, 'training')
    check_labels(test_labels, len(test_features), num_classes, 'test')
    train, test = _standardize(jnp.asarray(train_features), jnp.asarray(test_features))
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
    """Predicts the classes of test examples with the classifier that `linear_probe` fits by default.

    Args:
      train_features: float[n, D].
      train_labels: int[n], 0 to num_classes - 1.
      test_features: float[m, D].
      num_classes: C.

    Returns:
      int[m], the predicted classes.

    Raises:
      UserError: a label is out of range, there are no labels, or features are not finite.
    """
    check_labels(train_labels, len(train_features), num_classes, 'training')
    train, test = _standardize(jnp.asarray(train_features), jnp.asarray(test_features))
    params, _, _ = _fit(
        train, jnp.asarray(train_labels), L2, TOLERANCE, num_classes=num_classes, max_iterations=MAX_ITERATIONS
    )
    logits = np.asarray(_logits(params, test))
    if not np.isfinite(logits).all():
        raise UserError('the features are not finite -> check the training loss, and use an earlier checkpoint')
    return logits.argmax(axis=1)


@jax.jit
def _standardize(train: Array, test: Array) -> tuple[Array, Array]:
    """Standardizes each dimension of both sets by the mean and standard deviation of the training set."""
    dtype = jnp.promote_types(train.dtype, jnp.float32)
    train, test = train.astype(dtype), test.astype(dtype)
    mean, std = train.mean(axis=0), train.std(axis=0)
    # A dimension that is constant up to rounding stays near 0; division would turn its rounding errors into noise.
    std = jnp.where(std <= 1e-6 * jnp.abs(mean), 1, std)
    return (train - mean) / std, (test - mean) / std


@jax.jit
def _logits(params: Params, x: Array) -> Array:
    # The weight is [C, D]: with [D, C], XLA on a CPU takes five times as long for its gradient.
    return jnp.einsum('nd,cd->nc', x, params['weight'], precision='highest') + params['bias']


@functools.partial(jax.jit, static_argnames=('num_classes', 'max_iterations'))
def _fit(
    x: Array, labels: Array, l2: Array | float, tolerance: Array | float, *, num_classes: int, max_iterations: int
) -> tuple[Params, Array, Array]:
    """Returns the fitted parameters, their loss, and the number of iterations."""

    def loss_of(params: Params) -> Array:
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), labels).mean()
        return cross_entropy + l2 / 2 * jnp.sum(params['weight'] ** 2)

    lbfgs = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss_of)  # reuses the values of the line search

    def step(carry: tuple[Params, Any, Array, Array]) -> tuple[Params, Any, Array, Array]:
        params, state, _, i = carry
        loss, grads = value_and_grad(params, state=state)
        updates, state = lbfgs.update(grads, state, params, value=loss, grad=grads, value_fn=loss_of)
        largest = otu.tree_max(jax.tree.map(jnp.abs, otu.tree_get(state, 'grad')))
        return optax.apply_updates(params, updates), state, largest, i + 1

    def unfinished(carry: tuple[Params, Any, Array, Array]) -> Array:
        _, _, largest, i = carry
        return (largest > tolerance) & (i < max_iterations)  # a NaN also ends the loop

    start = {'weight': jnp.zeros((num_classes, x.shape[1]), x.dtype), 'bias': jnp.zeros(num_classes, x.dtype)}
    first = (start, lbfgs.init(start), jnp.asarray(jnp.inf, x.dtype), jnp.asarray(0))
    params, _, _, iterations = lax.while_loop(unfinished, step, first)
    return params, loss_of(params), iterations
