"""Cross-entropy against sklearn, with weights against a loop, and on several devices."""

import jax
import numpy as np
import pytest
from sklearn.metrics import log_loss

from contrastive_jax.losses import cross_entropy

B, K = 12, 5


@pytest.fixture
def logits(rng) -> np.ndarray:
    return 3 * rng.normal(size=(B, K))


@pytest.fixture
def labels(rng) -> np.ndarray:
    return rng.integers(0, K, B).astype(np.int32)


def test_sklearn(logits, labels):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with jax.enable_x64(True):
        np.testing.assert_allclose(cross_entropy(logits, labels), log_loss(labels, p, labels=range(K)), rtol=1e-12)


@pytest.mark.parametrize('devices', [1, 4])
def test_weights(logits, labels, rng, devices):
    """Examples without weight are not counted, wherever they are."""
    weights = rng.uniform(0.5, 2, B)
    weights[[0, 1, 2, 7]] = 0  # all of the first of four devices
    total = 0.0
    for row, label, weight in zip(logits, labels, weights, strict=True):
        total += weight * (np.log(sum(np.exp(x) for x in row)) - row[label])

    def on_a_device(*args):
        return jax.lax.pmean(cross_entropy(args[0], args[1], weights=args[2], axis_name='data'), 'data')

    with jax.enable_x64(True):
        parts = [x.reshape(devices, -1, *x.shape[1:]) for x in (logits, labels, weights)]
        found = jax.vmap(on_a_device, axis_name='data')(*parts)
    np.testing.assert_allclose(found, total / 8, rtol=1e-12)


def test_nothing_has_a_weight(logits, labels):
    assert cross_entropy(logits, labels, weights=np.zeros(B)) == 0
