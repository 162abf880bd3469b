"""Flip, crop with resize, rotation with shear, and blur; each example of a batch has its own box, angle or width.

Crops and blurs are linear and separable, so each is computed as two small dense matrix products,
`rows @ image @ columns.T`, without gathers.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from contrastive_jax.augment import crops
from contrastive_jax.models.interpolation import cubic, triangle

INTERPOLATIONS = ('bilinear', 'bicubic')
Padding = Literal['edge', 'reflect', 'zero']


def hflip(x: Array) -> Array:
    """Flips [..., H, W, C] left to right."""
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
    """Draws the box of a random resized crop.

    Args:
      key: one key; use vmap for several images.
      height, width: the size of the image, in pixels.
      scale: the smallest and largest area, as a fraction of the image's.
      ratio: the smallest and largest width / height.
      attempts: the number of candidates that are drawn.
      box: computes the box from uniform numbers; by default with torchvision's distribution.

    Returns:
      int32 [4]: top, left, height, width.
    """
    # Always float32, so that a key gives the same boxes in tests that run in float64.
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
    """Crops each image to its box and resizes the crop; pixels outside the box have no influence.

    Args:
      x: [..., H, W, C], uint8, uint16 or float.
      box: int [..., 4] or [4]: top, left, height, width; it must be inside the image.
      size: the height and width of the result, in pixels.
      interpolation: 'bilinear' or 'bicubic'. Bicubic results may exceed the range of the pixels.
      antialias: whether the filter widens if the crop is reduced, as in PIL and torch's `interpolate(antialias=True)`.
      cubic_a: the free parameter of the cubic kernel, see `models.interpolation.cubic`.
      whole_levels: whether to round to integers in [0, 255] after each of the two passes, as PIL does for 8-bit images.
      clamp: without `antialias`, whether pixels outside the box are replaced by its border, as in torch, or have no
        weight, as in TensorFlow.

    Returns:
      [..., *size, C], float32, or the dtype of x if that is wider.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    top, left, height, width = jnp.moveaxis(jnp.asarray(box), -1, 0)

    def kernel(t: Array) -> Array:
        return triangle(t, jnp) if interpolation == 'bilinear' else cubic(t, jnp, cubic_a)

    weights = _clamped_weights if clamp and not antialias else partial(_weights, widen=antialias)
    rows = weights(kernel, x.shape[-3], top, height, size[0], x.dtype)
    columns = weights(kernel, x.shape[-2], left, width, size[1], x.dtype)
    # Full precision, because accelerators would round the weights to so few bits that gray levels change.
    return _separable(x, rows, columns, whole_levels=whole_levels, precision=lax.Precision.HIGHEST)


def warp(x: Array, angle: Array, shear_down: Array, shear_right: Array, fill: float) -> Array:
    """Rotates and shears each image about its center, with bilinear interpolation.

    Args:
      x: float [b, H, W, C].
      angle: [b], in radians.
      shear_down: [b], the shift in rows for each column.
      shear_right: [b], the shift in columns for each row.
      fill: the value of pixels from outside the image.

    Returns:
      [b, H, W, C].
    """
    cos, sin, one = jnp.cos(angle), jnp.sin(angle), jnp.ones_like(angle)
    rotate = jnp.stack([jnp.stack([cos, sin], -1), jnp.stack([-sin, cos], -1)], -2)  # [b, 2, 2]
    shear = jnp.stack([jnp.stack([one, shear_down], -1), jnp.stack([shear_right, one], -1)], -2)
    center = (np.array(x.shape[1:3]) - 1) / 2
    target = np.stack(np.meshgrid(*map(np.arange, x.shape[1:3]), indexing='ij')) - center[:, None, None]  # [2, H, W]
    source = jnp.einsum('bij,bjk,kyx->biyx', rotate, shear, target).astype(x.dtype)
    source += jnp.asarray(center, x.dtype)[:, None, None]

    def sample(plane: Array, source: Array) -> Array:
        return map_coordinates(plane, list(source), order=1, mode='constant', cval=fill)

    return jax.vmap(jax.vmap(sample, (-1, None), -1))(x, source)


def gaussian_blur(x: Array, sigma: ArrayLike, kernel_size: int = 17, padding: Padding = 'edge') -> Array:
    """A Gaussian blur with a separate width for each image.

    PIL's `GaussianBlur(radius=sigma)`, which the FAIR repositories use, approximates it with three box blurs.

    Args:
      x: float [..., H, W, C].
      sigma: [...], standard deviations in pixels, above 0.
      kernel_size: the number of taps, odd; the default covers 4 sigma for the papers' largest sigma, 2.
      padding: the pixels outside the image: 'edge' (PIL), 'reflect' (torchvision) or 'zero' (TensorFlow).

    Returns:
      [..., H, W, C].
    """
    rows = _blur_weights(x.shape[-3], jnp.asarray(sigma, x.dtype), kernel_size, padding)
    square = x.shape[-3] == x.shape[-2]
    columns = rows if square else _blur_weights(x.shape[-2], jnp.asarray(sigma, x.dtype), kernel_size, padding)
    return _separable(x, rows, columns)


def _separable(
    x: Array, rows: Array, columns: Array, whole_levels: bool = False, precision: lax.Precision | None = None
) -> Array:
    """Applies rows [..., h, H] and columns [..., w, W] to x [..., H, W, C]; returns [..., h, w, C].

    The columns come first, as in PIL (but Pillow 13 reverses the order for some boxes that are reduced in height).
    """

    def finish(y: Array) -> Array:
        # Halves are frequent, as the mean of two pixels. The 2**-12 rounds them all up, in whatever order a device
        # sums, so that a difference in the last bit of a float does not become a difference of a gray level.
        return jnp.clip(jnp.floor(y + (0.5 + 2**-12)), 0, 255) if whole_levels else y

    # In the layout [..., H, C, W] both steps are batched matrix products, (H C) x W and H x (C w), without transposes.
    y = jnp.swapaxes(x, -1, -2)
    y = finish(jnp.einsum('...hcw,...jw->...hcj', y, columns, precision=precision))
    y = finish(jnp.einsum('...ih,...hcj->...icj', rows, y, precision=precision))
    return jnp.swapaxes(y, -1, -2)


# Below, a box begins at `start` and has `extent` pixels. The center of output pixel i is at (2 i + 1) extent / (2 out),
# and that of pixel p of the box at p + 1/2. Their distance times 2 out is an integer, so only one division is rounded.


def _weights(
    kernel: Callable[[Array], Array], length: int, start: Array, extent: Array, out: int, dtype: jnp.dtype, widen: bool
) -> Array:
    """The weight of each pixel in each output pixel, [..., out, length]; `widen` the kernel if the box is reduced."""
    start, extent = start[..., None, None], extent[..., None, None]
    pixel, i = jnp.arange(length) - start, jnp.arange(out)[:, None]
    distance = (2 * pixel + 1) * out - (2 * i + 1) * extent  # [..., out, length]
    weights = kernel(distance.astype(dtype) / (2 * (jnp.maximum(extent, out) if widen else out)))
    weights = jnp.where((pixel >= 0) & (pixel < extent), weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def _clamped_weights(
    kernel: Callable[[Array], Array], length: int, start: Array, extent: Array, out: int, dtype: jnp.dtype
) -> Array:
    """The same with four taps around the center at every scale; taps outside the box are moved to its border."""
    start, extent = start[..., None, None], extent[..., None, None]
    pixel, i = jnp.arange(length) - start, jnp.arange(out)[:, None]
    whole, part = jnp.divmod((2 * i + 1) * extent - out, 2 * out)  # [..., out, 1]
    tap = jnp.arange(-1, 3)
    weights = kernel(tap - part.astype(dtype) / (2 * out))  # [..., out, 4]
    at = jnp.clip(whole + tap, 0, extent - 1)
    return jnp.sum(weights[..., None] * (at[..., None] == pixel[..., None, :]), axis=-2, dtype=dtype)


def _blur_weights(length: int, sigma: Array, kernel_size: int, padding: Padding) -> Array:
    """A band matrix of Gaussian taps, [..., length, length]; `padding` decides about taps outside the image."""
    radius = kernel_size // 2
    offset = jnp.arange(-radius, radius + 1, dtype=sigma.dtype)
    taps = jnp.exp(-0.5 * (offset / sigma[..., None]) ** 2)
    taps /= taps.sum(axis=-1, keepdims=True)  # [..., kernel_size]
    pixels = np.arange(length)
    # -1 stands for no pixel.
    source = np.pad(pixels, radius, constant_values=-1) if padding == 'zero' else np.pad(pixels, radius, mode=padding)
    source = np.stack([source[k : k + length] for k in range(kernel_size)])  # [kernel_size, length]
    return jnp.einsum('...k,kix->...ix', taps, (source[..., None] == jnp.arange(length)).astype(taps.dtype))
