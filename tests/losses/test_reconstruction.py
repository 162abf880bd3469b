"""Losses of reconstructions against loops and sklearn."""

import jax
import numpy as np
from sklearn.metrics import log_loss

from contrastive_jax.losses import masked_squared_error, reconstruction_cross_entropy


def test_cross_entropy_of_pixels(rng):
    """Of a pixel x it is the cross-entropy of a class with the weights x and 1 - x."""
    logits, x = 4 * rng.normal(size=(3, 2, 2, 1)), rng.uniform(size=(3, 2, 2, 1))
    p, weights = 1 / (1 + np.exp(-logits.ravel())), np.concatenate([x.ravel(), 1 - x.ravel()])
    expected = log_loss([1] * x.size + [0] * x.size, np.tile(p, 2), sample_weight=weights)
    with jax.enable_x64(True):
        np.testing.assert_allclose(reconstruction_cross_entropy(logits, x), expected, rtol=1e-10)
        gradient = jax.grad(reconstruction_cross_entropy, argnums=(0, 1))(logits, x)
    np.testing.assert_allclose(gradient[0].ravel(), (p - x.ravel()) / x.size, rtol=1e-9)
    assert not gradient[1].any()
    assert np.isfinite(reconstruction_cross_entropy(np.float32([1e4, -1e4]), np.float32([1, 0.5])))


def test_squared_error_of_the_missing_part(rng):
    B, H, W, C = 3, 4, 5, 2
    prediction, x = rng.normal(size=(2, B, H, W, C))
    weights = rng.uniform(size=(B, H, W)) * (rng.uniform(size=(B, H, W)) < 0.5)
    weights[2] = 0
    total = 0.0
    for i in range(2):
        error = sum(
            weights[i, r, s] * (prediction[i, r, s, c] - x[i, r, s, c]) ** 2 / C
            for r in range(H)
            for s in range(W)
            for c in range(C)
        )
        total += error / weights[i].sum()
    with jax.enable_x64(True):
        np.testing.assert_allclose(masked_squared_error(prediction, x, weights), total / B, rtol=1e-12)
