"""Where pixels come from: flip, crop with resize, and blur, each example with its own box or width.

Crops and blurs are separable and linear, so each is two small dense matrix products, `rows @ image @ columns.T`: no
gathers, and the boxes of a batch need not agree.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from contrastive_jax.augment import crops

INTERPOLATIONS = ('bilinear', 'bicubic')
Padding = Literal['edge', 'reflect', 'zero']


def hflip(x: Array) -> Array:
    """Mirrors [..., H, W, 3] left to right."""
    return x[..., ::-1, :]


def random_resized_crop_box(
    key: Array,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    attempts: int = 10,
    box: crops.Box = crops.torchvision_box,
) -> Array:
    """The box of a random resized crop.

    Args:
      key: one key; use vmap for more.
      height, width: the size of the image.
      scale: least and greatest area, as a fraction of the image's.
      ratio: least and greatest width / height.
      attempts: how many candidates are drawn.
      box: its distribution, by default torchvision's.

    Returns:
      int32 [4]: top, left, height, width.
    """
    # float32 in any mode, so that a key means the same boxes when a test runs in float64.
    return box(jax.random.uniform(key, (4, attempts), jnp.float32), height, width, scale, ratio, jnp)


def resized_crop(
    x: Array,
    box: ArrayLike,
    size: tuple[int, int],
    interpolation: str = 'bilinear',
    antialias: bool = True,
    cubic_a: float = -0.5,
    whole_levels: bool = False,
    clamp: bool = True,
) -> Array:
    """Crops each image to its box and resizes the crop; pixels outside the box take no part.

    With `antialias` the filter widens with the reduction, as in PIL and torch's `interpolate(antialias=True)`. Bicubic
    results may lie outside the range of the pixels.

    Args:
      x: [..., H, W, 3], uint8 or float.
      box: int [..., 4] or [4]: top, left, height, width; inside the image.
      size: height and width of the result.
      interpolation: 'bilinear' or 'bicubic'.
      cubic_a: the free parameter of the cubic; PIL, TensorFlow, and torch with antialias, -0.5; torch without, -0.75.
      whole_levels: round to whole numbers in [0, 255] after each of the two passes, as PIL does to 8-bit images.
      clamp: without antialias, pixels beyond the box count as its border (torch). Otherwise they do not count
        (TensorFlow).

    Returns:
      [..., *size, 3], float32 unless x is of a wider type.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    top, left, height, width = jnp.moveaxis(jnp.asarray(box), -1, 0)

    def kernel(t: Array) -> Array:
        return crops.triangle(t, jnp) if interpolation == 'bilinear' else crops.cubic(t, jnp, cubic_a)

    weights = _clamped_weights if clamp and not antialias else partial(_weights, widen=antialias)
    rows = weights(kernel, x.shape[-3], top, height, size[0], x.dtype)
    columns = weights(kernel, x.shape[-2], left, width, size[1], x.dtype)
    # Full precision, or accelerators round the weights to a few bits and neighbouring grey levels change places.
    return _separable(x, rows, columns, whole_levels=whole_levels, precision=lax.Precision.HIGHEST)


def gaussian_blur(x: Array, sigma: ArrayLike, kernel_size: int = 17, padding: Padding = 'edge') -> Array:
    """A true Gaussian blur, each image with its own width.

    PIL's `GaussianBlur(radius=sigma)`, which the FAIR repositories use, approximates it by three box blurs.

    Args:
      x: float [..., H, W, 3].
      sigma: standard deviation in pixels, [...], > 0.
      kernel_size: odd number of taps; the default reaches 4 sigma for the papers' largest sigma, 2.
      padding: what lies beyond the border: 'edge' (PIL), 'reflect' (torchvision) or 'zero' (TensorFlow).
    """
    rows = _blur_weights(x.shape[-3], jnp.asarray(sigma, x.dtype), kernel_size, padding)
    square = x.shape[-3] == x.shape[-2]
    columns = rows if square else _blur_weights(x.shape[-2], jnp.asarray(sigma, x.dtype), kernel_size, padding)
    return _separable(x, rows, columns)


def _separable(
    x: Array, rows: Array, columns: Array, whole_levels: bool = False, precision: lax.Precision | None = None
) -> Array:
    """rows [..., h, H] and columns [..., w, W] applied to x [..., H, W, 3].

    Columns first, as in PIL (though Pillow 13 reverses it for some boxes that are reduced in height).
    """

    def finish(y: Array) -> Array:
        # Halves are frequent (the mean of two pixels); the bit above them sends them all up, in whatever order a device
        # sums, so that rounding does not turn the last bit of a float into a grey level.
        return jnp.clip(jnp.floor(y + (0.5 + 2**-12)), 0, 255) if whole_levels else y

    # As [..., H, 3, W] both are plain batched matrix products, (H 3) x W and then H x (3 w), without a transpose.
    y = jnp.swapaxes(x, -1, -2)
    y = finish(jnp.einsum('...hcw,...jw->...hcj', y, columns, precision=precision))
    y = finish(jnp.einsum('...ih,...hcj->...icj', rows, y, precision=precision))
    return jnp.swapaxes(y, -1, -2)


# Below, a box begins at `start` and is `extent` long; output pixel i has its centre at (2 i + 1) extent / (2 out) and
# pixel p of the box at p + 1/2. Their distance times 2 out is a whole number, so the only rounding is one division.


def _weights(
    kernel: Callable[[Array], Array], length: int, start: Array, extent: Array, out: int, dtype: jnp.dtype, widen: bool
) -> Array:
    """[..., out, length]: the share of each pixel in each output pixel; `widen` the kernel where pixels are reduced."""
    start, extent = start[..., None, None], extent[..., None, None]
    pixel, i = jnp.arange(length) - start, jnp.arange(out)[:, None]
    distance = (2 * pixel + 1) * out - (2 * i + 1) * extent  # [..., out, length]
    weights = kernel(distance.astype(dtype) / (2 * (jnp.maximum(extent, out) if widen else out)))
    weights = jnp.where((pixel >= 0) & (pixel < extent), weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def _clamped_weights(
    kernel: Callable[[Array], Array], length: int, start: Array, extent: Array, out: int, dtype: jnp.dtype
) -> Array:
    """The same with four taps around the centre whatever the scale; taps beyond the box fall on its border."""
    start, extent = start[..., None, None], extent[..., None, None]
    pixel, i = jnp.arange(length) - start, jnp.arange(out)[:, None]
    whole, part = jnp.divmod((2 * i + 1) * extent - out, 2 * out)  # [..., out, 1]
    tap = jnp.arange(-1, 3)
    weights = kernel(tap - part.astype(dtype) / (2 * out))  # [..., out, 4]
    at = jnp.clip(whole + tap, 0, extent - 1)
    return jnp.sum(weights[..., None] * (at[..., None] == pixel[..., None, :]), axis=-2, dtype=dtype)


def _blur_weights(length: int, sigma: Array, kernel_size: int, padding: Padding) -> Array:
    """[..., length, length]: a band of Gaussian taps, those beyond the border counted where `padding` puts them."""
    radius = kernel_size // 2
    offset = jnp.arange(-radius, radius + 1, dtype=sigma.dtype)
    taps = jnp.exp(-0.5 * (offset / sigma[..., None]) ** 2)
    taps /= taps.sum(axis=-1, keepdims=True)  # [..., kernel_size]
    places = np.arange(length)
    # -1 is no pixel at all.
    source = np.pad(places, radius, constant_values=-1) if padding == 'zero' else np.pad(places, radius, mode=padding)
    source = np.stack([source[k : k + length] for k in range(kernel_size)])  # [kernel_size, length]
    return jnp.einsum('...k,kix->...ix', taps, (source[..., None] == jnp.arange(length)).astype(taps.dtype))
