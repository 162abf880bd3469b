"""Colour operations on float images in [0, 1], channels last; by default with torchvision's float semantics.

The reference repositories (moco, moco-v3, simsiam, ...) apply these through PIL to 8-bit images; here nothing is
rounded in between. A style says whose operations are meant. Factors have the shape of the leading axes of the images,
or are scalars.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from contrastive_jax.augment import planes
from contrastive_jax.augment.styles import PIL, Style

ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)  # [24, 4]


def brightness(x: Array, setting: ArrayLike, style: Style = PIL) -> Array:
    """Multiplies by the setting, or adds it; clipped to [0, 1]. x is [..., H, W, 3], setting [...]."""
    return planes.join(planes.brightness(planes.split(x), _per_image(setting, x), style))


def contrast(x: Array, factor: ArrayLike, style: Style = PIL) -> Array:
    """Away from a mean (factor > 1) or towards it, clipped to [0, 1]. x is [..., H, W, 3], factor [...]."""
    return planes.join(planes.contrast(planes.split(x), _per_image(factor, x), style))


def saturation(x: Array, factor: ArrayLike, style: Style = PIL) -> Array:
    """More colour (factor > 1) or less, clipped to [0, 1]. x is [..., H, W, 3], factor [...]."""
    return planes.join(planes.saturation(planes.split(x), _per_image(factor, x), style))


def hue(x: Array, delta: ArrayLike) -> Array:
    """Turns the hue by `delta` turns (in [-0.5, 0.5]) in exact HSV. x is [..., H, W, 3] in [0, 1], delta [...]."""
    return planes.join(planes.turn_hue(planes.split(x), _per_image(delta, x)))


def grayscale(x: Array, style: Style = PIL) -> Array:
    """The grey of each pixel in all three channels. x is [..., H, W, 3]."""
    return planes.join(planes.grayscale(planes.split(x), style))


def solarize(x: Array, threshold: ArrayLike = 0.5) -> Array:
    """Inverts what is not below the threshold.

    PIL inverts grey levels of 128 and more, which is the same as 0.5 on whole levels (127 / 255 < 0.5 < 128 / 255);
    between the levels 0.5 leaves no jump.

    Args:
      x: images in [0, 1], of any shape.
      threshold: [...], or one number for all.
    """
    limit = jnp.asarray(threshold, x.dtype)
    return jnp.where(x < (limit[..., None, None, None] if limit.ndim else limit), x, 1 - x)


def normalize(x: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(x - mean) / std per channel. x is [..., 3]."""
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def draw_jitter(key: Array, strength: Sequence[float], style: Style = PIL) -> tuple[Array, Array]:
    """The random settings of one image's colour jitter, as torchvision's `ColorJitter.get_params` draws them.

    Args:
      key: one key; use vmap for more.
      strength: brightness, contrast, saturation, hue. The first three give factors uniform in [max(0, 1 - s), 1 + s],
        the hue a turn uniform in [-s, s].
      style: where brightness is added, its strength gives a shift uniform in [-s, s].

    Returns:
      factors float32 [4], in the order of `strength`, and order int32 [4]: which of the four comes first, second, ...
    """
    s, centre = np.asarray(strength, np.float32), np.asarray(style.neutral, np.float32)
    low, high = np.where(centre == 1, np.maximum(0, 1 - s), -s), centre + s
    # float32 in any mode, so that a key means the same images when a test runs in float64.
    u = jax.random.uniform(key, (5,), jnp.float32)
    factors = low + (high - low) * u[:4]
    return factors, jnp.asarray(ORDERS)[(u[4] * len(ORDERS)).astype(jnp.int32)]


def color_jitter(x: Array, factors: ArrayLike, order: ArrayLike, style: Style = PIL) -> Array:
    """Brightness, contrast, saturation and hue, in an order of its own for each image; clipped to [0, 1] after each.

    Args:
      x: [..., H, W, 3] in [0, 1].
      factors: [..., 4] settings of brightness, contrast, saturation, and the turn of the hue. `style.neutral` is the
        identity, to the last bit.
      order: int [..., 4], a permutation: the operation that comes first, second, third and last, by index in `factors`.
      style: whose operations.

    Returns:
      [..., H, W, 3] in [0, 1].
    """
    return planes.join(planes.jitter(planes.split(x), jnp.asarray(factors), jnp.asarray(order), style))


def _per_image(value: ArrayLike, x: Array) -> Array:
    """[...] -> [..., 1, 1], to stand beside a plane."""
    return jnp.asarray(value, x.dtype)[..., None, None]
