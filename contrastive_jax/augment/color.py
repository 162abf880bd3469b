"""Color operations on float images in [0, 1], channels last; by default as torchvision defines them for floats.

The reference repositories (moco, moco-v3, simsiam, ...) apply these operations to 8-bit images with PIL; here nothing
is rounded in between. The style selects the library whose operations are computed. Factors are scalars or have the
shape of the leading axes of the images.
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
    """Multiplies by the setting, or adds it in some styles; clipped to [0, 1]. x is [..., H, W, C], setting [...]."""
    return planes.join(planes.brightness(planes.split(x), _per_image(setting, x), style))


def contrast(x: Array, factor: ArrayLike, style: Style = PIL) -> Array:
    """Scales the distance from a mean by the factor; clipped to [0, 1]. x is [..., H, W, C], factor [...]."""
    return planes.join(planes.contrast(planes.split(x), _per_image(factor, x), style))


def saturation(x: Array, factor: ArrayLike, style: Style = PIL) -> Array:
    """Scales the distance from gray by the factor; clipped to [0, 1]. x is [..., H, W, 3], factor [...]."""
    return planes.join(planes.saturation(planes.split(x), _per_image(factor, x), style))


def hue(x: Array, delta: ArrayLike) -> Array:
    """Rotates the hue by `delta` turns, in [-0.5, 0.5], in exact HSV. x is [..., H, W, 3] in [0, 1], delta [...]."""
    return planes.join(planes.rotate_hue(planes.split(x), _per_image(delta, x)))


def grayscale(x: Array, style: Style = PIL) -> Array:
    """Replaces all three channels by the gray value of each pixel. x is [..., H, W, 3]."""
    return planes.join(planes.grayscale(planes.split(x), style))


def solarize(x: Array, threshold: ArrayLike = 0.5) -> Array:
    """Inverts all values that are at least the threshold.

    PIL inverts levels of 128 and more. On 8-bit levels this equals the threshold 0.5, as 127 / 255 < 0.5 < 128 / 255.
    For values between the levels, x and 1 - x are equal at 0.5, so the result is continuous.

    Args:
      x: [..., H, W, C], images in [0, 1]; any shape if the threshold is a scalar.
      threshold: [...] or a scalar.
    """
    limit = jnp.asarray(threshold, x.dtype)
    return jnp.where(x < (limit[..., None, None, None] if limit.ndim else limit), x, 1 - x)


def normalize(x: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(x - mean) / std for each channel. x is [..., C]."""
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def draw_jitter(key: Array, strength: Sequence[float], style: Style = PIL) -> tuple[Array, Array]:
    """Draws the settings of one image's color jitter, as torchvision's `ColorJitter.get_params` does.

    Args:
      key: one key; use vmap for several images.
      strength: s of brightness, contrast, saturation and hue. The factors of the first three are uniform in
        [max(0, 1 - s), 1 + s]; the rotation of the hue is uniform in [-s, s] turns.
      style: if brightness is added in this style, the shift is uniform in [-s, s].

    Returns:
      Factors float32 [4], in the order of `strength`, and order int32 [4], the operation at each place.
    """
    s, neutral = np.asarray(strength, np.float32), np.asarray(style.neutral, np.float32)
    low, high = np.where(neutral == 1, np.maximum(0, 1 - s), -s), neutral + s
    # Always float32, so that a key gives the same images in tests that run in float64.
    u = jax.random.uniform(key, (5,), jnp.float32)
    factors = low + (high - low) * u[:4]
    return factors, jnp.asarray(ORDERS)[(u[4] * len(ORDERS)).astype(jnp.int32)]


def color_jitter(x: Array, factors: ArrayLike, order: ArrayLike, style: Style = PIL) -> Array:
    """Applies brightness, contrast, saturation and hue in a separate order for each image; clips to [0, 1] after each.

    Args:
      x: [..., H, W, C] in [0, 1]; with another C than 3, brightness and contrast alone are applied.
      factors: [..., 4], the settings of brightness, contrast and saturation, and the rotation of the hue in turns. With
        `style.neutral` the output equals the input bit for bit.
      order: int [..., 4], a permutation: the index in `factors` of the operation at each place.
      style: selects the library whose operations are computed.

    Returns:
      [..., H, W, C] in [0, 1].
    """
    return planes.join(planes.jitter(planes.split(x), jnp.asarray(factors), jnp.asarray(order), style))


def _per_image(value: ArrayLike, x: Array) -> Array:
    """[...] -> [..., 1, 1], to broadcast with a plane [..., H, W]."""
    return jnp.asarray(value, x.dtype)[..., None, None]
