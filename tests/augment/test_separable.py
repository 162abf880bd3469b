"""The form that a CPU computes for large images, against the dense one, which test_geometry.py compares with PIL."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from contrastive_jax.augment import geometry, separable

BOXES = np.array([[0, 0, 40, 33], [3, 5, 1, 1], [39, 0, 1, 33], [10, 20, 14, 7], [5, 5, 30, 23]])


def both(monkeypatch: pytest.MonkeyPatch, operation: Callable[..., Any], *args: Any) -> tuple[np.ndarray, np.ndarray]:
    """The result of the sums, and that of the dense products."""
    found = []
    for large, products in ((1, False), (1000, True)):
        monkeypatch.setattr(separable, 'LARGE', large)
        lowered = jax.jit(lambda *args: operation(*args)).lower(*args)
        assert ('dot_general' in lowered.as_text()) == products
        found.append(np.asarray(lowered.compile()(*args)))
    return found[0], found[1]


@pytest.mark.parametrize(
    ('interpolation', 'antialias', 'clamp', 'whole_levels'),
    [
        ('bilinear', True, True, True),
        ('bicubic', True, True, False),
        ('bicubic', False, True, False),
        ('bicubic', False, False, False),
    ],
)
def test_crops(
    interpolation: str, antialias: bool, clamp: bool, whole_levels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes that are enlarged, reduced and at the border."""
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 33, 3), np.uint8)

    def crop(images: jax.Array, boxes: jax.Array) -> jax.Array:
        return geometry.resized_crop(images, boxes, (14, 11), interpolation, antialias, -0.5, whole_levels, clamp)

    sums, products = both(monkeypatch, crop, images, BOXES)
    assert sums.dtype == products.dtype
    np.testing.assert_allclose(sums, products, atol=1e-6 if whole_levels else 1e-3)


@pytest.mark.parametrize('padding', ['edge', 'reflect', 'zero'])
def test_blur(padding: separable.Padding, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).uniform(size=(2, 21, 14, 3)).astype(np.float32)
    sigma = np.array([0.6, 1.9], np.float32)
    sums, products = both(monkeypatch, lambda x, sigma: geometry.gaussian_blur(x, sigma, 9, padding), x, sigma)
    np.testing.assert_allclose(sums, products, atol=1e-6)
