"""Colour operations on float images in [0, 1], channels last, with torchvision's float semantics.

The reference repositories (moco, moco-v3, simsiam, ...) apply these through PIL to 8-bit images; here nothing is
rounded in between. Factors have the shape of the leading axes of the images, or are scalars.

Inside, an image is three planes. Every step is then elementwise with one index, so XLA fuses a chain of steps into one
pass over memory; with the channels on an axis each step would mix neighbours along it and end the fusion.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array
Planes = tuple[Array, Array, Array]

# Luma as PIL's conversion to 'L' computes it: ITU-R 601-2 (.299, .587, .114) in 16 bits. They sum to exactly 1, so grey
# stays grey. torchvision's float tensors use .2989 for red, which darkens white; the recipes were trained through PIL.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)  # [24, 4]


def brightness(x: Array, factor: ArrayLike) -> Array:
    """Blends with black: `factor * x`, clipped to [0, 1]. x is [..., H, W, 3], factor [...]."""
    return _join(_blend(_split(x), 0.0, _per_image(factor, x)))


def contrast(x: Array, factor: ArrayLike, weights: Sequence[float] = LUMA) -> Array:
    """Blends with the mean grey of each image, clipped to [0, 1]. x is [..., H, W, 3], factor [...]."""
    planes = _split(x)
    return _join(_blend(planes, _mean_grey(planes, weights), _per_image(factor, x)))


def saturation(x: Array, factor: ArrayLike, weights: Sequence[float] = LUMA) -> Array:
    """Blends each pixel with its grey, clipped to [0, 1]. x is [..., H, W, 3], factor [...]."""
    planes = _split(x)
    return _join(_blend(planes, _grey(planes, weights), _per_image(factor, x)))


def hue(x: Array, delta: ArrayLike) -> Array:
    """Turns the hue by `delta` turns (in [-0.5, 0.5]) in exact HSV. x is [..., H, W, 3] in [0, 1], delta [...]."""
    return _join(_turn_hue(_split(x), _per_image(delta, x)))


def grayscale(x: Array, weights: Sequence[float] = LUMA) -> Array:
    """The grey of each pixel in all three channels. x is [..., H, W, 3]."""
    grey = _grey(_split(x), weights)
    return _join((grey, grey, grey))


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
    """(x - mean) / std per channel. x is [..., 3] in [0, 1]."""
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def draw_jitter(key: Array, strength: Sequence[float]) -> tuple[Array, Array]:
    """The random settings of one image's colour jitter, as torchvision's `ColorJitter.get_params` draws them.

    Args:
      key: one key; use vmap for more.
      strength: brightness, contrast, saturation, hue. The first three give factors uniform in [max(0, 1 - s), 1 + s],
        the hue a turn uniform in [-s, s].

    Returns:
      factors float32 [4], in the order of `strength`, and order int32 [4]: which of the four comes first, second, ...
    """
    s = np.asarray(strength, np.float32)
    low = np.append(np.maximum(0, 1 - s[:3]), -s[3:])
    high = np.append(1 + s[:3], s[3:])
    # float32 in any mode, so that a key means the same images when a test runs in float64.
    u = jax.random.uniform(key, (5,), jnp.float32)
    factors = low + (high - low) * u[:4]
    return factors, jnp.asarray(ORDERS)[(u[4] * len(ORDERS)).astype(jnp.int32)]


def color_jitter(x: Array, factors: Array, order: Array, weights: Sequence[float] = LUMA) -> Array:
    """Brightness, contrast, saturation and hue, in an order of its own for each image; clipped to [0, 1] after each.

    Under vmap, a switch on the order would compute all four in each of four places, with a mean of the image each time.
    But each operation happens once. So the chain is laid out around contrast, whose mean is the one thing that needs a
    pass over the image: a stage of pointwise steps before it and one after it. In a stage, the two blends (brightness
    and saturation) may come before or after the hue. A step whose turn it is not has the factor 1, which leaves every
    bit as it was.

    Args:
      x: [..., H, W, 3] in [0, 1].
      factors: [..., 4] brightness, contrast, saturation factors and the turn of the hue. (1, 1, 1, 0) is the identity.
      order: int [..., 4], a permutation: the operation that comes first, second, third and last, by index in `factors`.

    Returns:
      [..., H, W, 3] in [0, 1].
    """
    factor = [_per_image(factors[..., i], x) for i in range(4)]
    place = [_per_image(jnp.argmax(order == i, axis=-1), order) for i in range(4)]
    brightness_first = place[BRIGHTNESS] < place[SATURATION]

    def blends(planes: Planes, here: Callable[[Array], Array]) -> Planes:
        bright = jnp.where(here(place[BRIGHTNESS]), factor[BRIGHTNESS], 1)
        saturate = jnp.where(here(place[SATURATION]), factor[SATURATION], 1)
        one, two = jnp.where(brightness_first, bright, saturate), jnp.where(brightness_first, saturate, bright)
        planes = _blend(planes, jnp.where(brightness_first, 0, _grey(planes, weights)), one)
        return _blend(planes, jnp.where(brightness_first, _grey(planes, weights), 0), two)

    def stage(planes: Planes, here: Callable[[Array], Array]) -> Planes:
        planes = blends(planes, lambda p: here(p) & (p < place[HUE]))
        turned, turn = _turn_hue(planes, factor[HUE]), here(place[HUE]) & (factor[HUE] != 0)
        red, green, blue = (jnp.where(turn, new, old) for new, old in zip(turned, planes, strict=True))
        return blends((red, green, blue), lambda p: here(p) & (p > place[HUE]))

    planes = stage(_split(x), lambda p: p < place[CONTRAST])
    planes = _blend(planes, _mean_grey(planes, weights), factor[CONTRAST])
    return _join(stage(planes, lambda p: p > place[CONTRAST]))


def _split(x: Array) -> Planes:
    return x[..., 0], x[..., 1], x[..., 2]


def _join(planes: Planes) -> Array:
    return jnp.stack(planes, axis=-1)


def _per_image(value: ArrayLike, like: Array) -> Array:
    """[...] -> [..., 1, 1], to stand beside a plane."""
    return jnp.asarray(value, like.dtype)[..., None, None]


def _grey(planes: Planes, weights: Sequence[float]) -> Array:
    red, green, blue = planes
    return weights[0] * red + weights[1] * green + weights[2] * blue


def _mean_grey(planes: Planes, weights: Sequence[float]) -> Array:
    return _grey(planes, weights).mean(axis=(-2, -1), keepdims=True)


def _blend(planes: Planes, target: ArrayLike, factor: Array) -> Planes:
    """factor * planes + (1 - factor) * target, clipped: beyond 1 it leads away from the target."""
    red, green, blue = (jnp.clip(factor * plane + (1 - factor) * target, 0, 1) for plane in planes)
    return red, green, blue


def _turn_hue(planes: Planes, delta: Array) -> Planes:
    """HSV and back in one: the hue counts sixths of a turn from red, and value and chroma stay.

    A channel falls from the value by the chroma as the hue leaves its third of the circle:
    v - c clip(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    sixths = jnp.where(is_red, 0, jnp.where(is_green, 2, 4)) + difference / jnp.where(chroma > 0, chroma, 1) + 6 * delta

    def channel(n: int) -> Array:
        turns = (n + sixths) / 6
        k = 6 * (turns - jnp.floor(turns))
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return channel(5), channel(3), channel(1)
