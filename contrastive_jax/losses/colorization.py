"""Colorization as classification (arXiv 1603.08511, section 2): classes of colors, soft targets, rebalanced weights.

A color is the pair (a, b) of CIE Lab (D65). The plane of all pairs is divided into bins with centers at multiples of
`STEP`, and the Q bins that sRGB reaches are the classes.

Q is 261 here: those bins that have at least one of the 256^3 colors of 8 bits. The paper has Q = 313 and publishes its
list without the rule that made it. The sRGB gamut does not fill so many bins of this size: even its convex hull meets
only 267.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32

STEP = 10  # of the centers of the bins, in units of a and b
# a of a row of bins -> the lowest and the highest b in it. tests/losses/test_colorization.py derives them from sRGB.
GAMUT = {
    -90: (80, 80), -80: (40, 80), -70: (20, 90), -60: (0, 90), -50: (-20, 90), -40: (-30, 90), -30: (-40, 90),
    -20: (-40, 90), -10: (-50, 90), 0: (-60, 90), 10: (-70, 80), 20: (-70, 80), 30: (-80, 80), 40: (-90, 80),
    50: (-90, 70), 60: (-100, 70), 70: (-110, 70), 80: (-110, 70), 90: (-90, 0), 100: (-70, -50),
}  # fmt: skip


@functools.cache
def color_bins() -> np.ndarray:
    """The classes: float64[Q, 2], the a and b of the centers of the bins, in the order of a, then b."""
    centers = [(a, b) for a, (low, high) in GAMUT.items() for b in range(low, high + 1, STEP)]
    return np.array(centers, np.float64)


def color_targets(ab: Array, *, neighbors: int = 5, sigma: float = 5.0) -> tuple[Array, Array]:
    """The soft target of each color: its nearest bins, weighted by a Gaussian of their distance.

    Args:
      ab: [..., 2], colors. They get no gradient.
      neighbors: the number of bins; 5 in the paper, 10 in the official code.
      sigma: standard deviation of the Gaussian.

    Returns:
      int32[..., neighbors], the bins, the nearest one first, and their weights [..., neighbors], with sum 1, at least
      float32.
    """
    ab = at_least_float32(lax.stop_gradient(ab))
    near, index = lax.top_k(-_squared_distances(ab), neighbors)
    return index, jax.nn.softmax(near / (2 * sigma**2), axis=-1)


def count_colors(ab: Array, *, axis_name: str | None = None) -> Array:
    """How many colors are nearest to each bin.

    Args:
      ab: [..., 2], colors.
      axis_name: the mapped device axis; the counts are those of all devices.

    Returns:
      [Q], at least float32.
    """
    ab = at_least_float32(ab)
    nearest = jnp.argmin(_squared_distances(ab), axis=-1).ravel()
    return collectives.psum(jnp.zeros(len(color_bins()), ab.dtype).at[nearest].add(1), axis_name)


def color_weights(counts: Array, *, uniform: float = 0.5, sigma: float = 5.0) -> Array:
    """Class rebalancing: the weight of each bin, larger for rare colors (eq. 4 of the paper).

    With p the distribution of the colors, smoothed by a Gaussian: w ~ 1 / ((1 - uniform) p + uniform / Q), scaled so
    that the mean weight of a color, the sum of p w, is 1. The Gaussian keeps the mass inside the gamut.

    Args:
      counts: [Q], how often each bin occurs, for example from `count_colors`. All 0: all weights are 1.
      uniform: the share of the uniform distribution, lambda, in (0, 1]; 1: all weights are 1.
      sigma: standard deviation of the Gaussian, in units of a and b.

    Returns:
      [Q], at least float32.
    """
    counts = at_least_float32(counts)
    Q, bins = len(color_bins()), color_bins()
    kernel = np.exp(-np.sum((bins[:, None] - bins) ** 2, axis=-1) / (2 * sigma**2))  # [Q, Q]
    kernel /= kernel.sum(axis=0)
    p = jnp.matmul(jnp.asarray(kernel, counts.dtype), counts, precision=lax.Precision.HIGHEST)
    total = jnp.sum(p)
    p = jnp.where(total > 0, p / jnp.where(total > 0, total, 1), 1 / Q)
    w = 1 / ((1 - uniform) * p + uniform / Q)
    return w / jnp.sum(p * w)


def colorization(logits: Array, ab: Array, weights: Array, *, neighbors: int = 5, sigma: float = 5.0) -> Array:
    """Cross-entropy of the soft targets, weighted by the nearest bin of each pixel: eq. 2 and 3 of the paper.

    The paper adds up the pixels; here it is their mean, as in the official training of AlexNet.

    Args:
      logits: [..., Q], of the bins.
      ab: [..., 2], the colors. They get no gradient.
      weights: [Q], for example from `color_weights`. They get no gradient.
      neighbors, sigma: the parameters of the soft targets, see `color_targets`.

    Returns:
      Scalar, the mean over the pixels, at least float32. Its mean over the devices is the loss of the whole batch.
    """
    index, target = color_targets(ab, neighbors=neighbors, sigma=sigma)
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    losses = -jnp.sum(target * jnp.take_along_axis(log_p, index, axis=-1), axis=-1)
    return jnp.mean(lax.stop_gradient(weights)[index[..., 0]] * losses)


def _squared_distances(ab: Array) -> Array:
    """[..., Q], from colors [..., 2] to the centers of the bins."""
    bins = jnp.asarray(color_bins(), ab.dtype)
    return (ab[..., :1] - bins[:, 0]) ** 2 + (ab[..., 1:] - bins[:, 1]) ** 2
