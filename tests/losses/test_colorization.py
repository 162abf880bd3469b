"""Classes of colors from sRGB itself; targets, weights and loss against loops in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.losses import color_bins, color_targets, color_weights, colorization, count_colors

BINS = color_bins().tolist()
Q = len(BINS)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab of sRGB [n, 3] in [0, 1], by IEC 61966-2-1 and CIE 15, for D65 and the 2 degree observer."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / matrix.sum(1)  # relative to white
    t = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * t[:, 1] - 16, 500 * (t[:, 0] - t[:, 1]), 200 * (t[:, 1] - t[:, 2])], axis=1)


def test_the_bins_are_those_that_srgb_reaches():
    """By all 8-bit colors on the surface of the RGB cube. Those inside reach no other bin, as a loop over all found."""
    u, v = (x.ravel() for x in np.meshgrid(*[np.linspace(0, 1, 256)] * 2))
    faces = [np.stack(np.roll([np.full_like(u, end), u, v], axis, 0), 1) for end in (0, 1) for axis in range(3)]
    reached = np.unique(np.round(lab(np.concatenate(faces))[:, 1:] / 10), axis=0) * 10
    np.testing.assert_array_equal(color_bins(), reached)
    assert len(BINS) == 261


def nearest(color: np.ndarray, count: int) -> list[tuple[float, int]]:
    """(distance, bin) of the nearest bins, the nearest first."""
    return sorted((math.dist(color, center), q) for q, center in enumerate(BINS))[:count]


def test_targets_in_loops(rng):
    ab = rng.uniform(-100, 100, size=(3, 4, 2))
    with jax.enable_x64(True):
        index, target = color_targets(jnp.asarray(ab), neighbors=6, sigma=7.0)
    for place in np.ndindex(3, 4):
        found = nearest(ab[place], 6)
        weights = np.array([math.exp(-(d**2 - found[0][0] ** 2) / (2 * 7.0**2)) for d, _ in found])
        np.testing.assert_array_equal(index[place], [q for _, q in found])
        np.testing.assert_allclose(target[place], weights / weights.sum(), rtol=1e-9)


def test_gray_has_the_weights_of_a_gaussian():
    """sigma 5: the four neighbors at distance 10 have e^-2 of the weight of gray itself."""
    index, target = color_targets(jnp.zeros((1, 2)))
    np.testing.assert_allclose(target[0] / target[0, 0], [1, *[math.exp(-2)] * 4], rtol=1e-6)
    assert sorted(map(tuple, color_bins()[index[0]])) == [(-10, 0), (0, -10), (0, 0), (0, 10), (10, 0)]


def test_weights_in_loops(rng):
    counts = rng.integers(0, 50, Q) * (rng.uniform(size=Q) < 0.3)
    p = np.zeros(Q)
    for r, count in enumerate(counts):
        kernel = np.array([math.exp(-(math.dist(BINS[q], BINS[r]) ** 2) / (2 * 5.0**2)) for q in range(Q)])
        p += count / counts.sum() * kernel / kernel.sum()
    w = np.array([1 / (0.7 * p[q] + 0.3 / Q) for q in range(Q)])
    with jax.enable_x64(True):
        found = color_weights(jnp.asarray(counts, float), uniform=0.3)
    np.testing.assert_allclose(found, w / (p @ w), rtol=1e-10)


@pytest.mark.parametrize(('counts', 'uniform'), [(np.arange(Q), 1.0), (np.zeros(Q), 0.5)])
def test_equal_weights(counts, uniform):
    """Of the uniform distribution alone, and before anything is counted."""
    np.testing.assert_allclose(color_weights(jnp.asarray(counts, jnp.float32), uniform=uniform), 1, rtol=1e-5)


def test_loss_in_loops(rng):
    logits, ab = rng.normal(size=(2, 3, Q)), rng.uniform(-80, 80, size=(2, 3, 2))
    weights = rng.uniform(0.5, 2, Q)
    losses = []
    for place in np.ndindex(2, 3):
        found = nearest(ab[place], 5)
        target = np.array([math.exp(-(d**2) / 50) for d, _ in found])
        p = np.exp(logits[place]) / np.exp(logits[place]).sum()
        entropies = [-t * math.log(p[q]) for t, (_, q) in zip(target / target.sum(), found, strict=True)]
        losses.append(weights[found[0][1]] * sum(entropies))
    with jax.enable_x64(True):
        loss, gradient = jax.value_and_grad(colorization, argnums=(0, 1, 2))(*map(jnp.asarray, (logits, ab, weights)))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-10)
    assert gradient[0].any() and not gradient[1].any() and not gradient[2].any()


def test_counts_on_several_devices(rng):
    ab = rng.uniform(-100, 100, size=(4, 6, 2))
    expected = np.bincount([nearest(color, 1)[0][1] for color in ab.reshape(-1, 2)], minlength=Q)
    count = jax.vmap(lambda ab: count_colors(ab, axis_name='data'), axis_name='data')
    np.testing.assert_array_equal(count(jnp.asarray(ab)), np.tile(expected, (4, 1)))
