"""Flip, crop with resize, rotation with shear, and blur; each example of a batch has its own box, angle or width."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from contrastive_jax.augment import crops, separable
from contrastive_jax.models.interpolation import cubic, triangle

INTERPOLATIONS = ('bilinear', 'bicubic')


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
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    radius = 1 if interpolation == 'bilinear' else 2
    kernel = partial(triangle, xp=jnp) if interpolation == 'bilinear' else partial(cubic, xp=jnp, a=cubic_a)
    rows, columns = (
        separable.Resampling(kernel, radius, antialias, clamp, length, out, dtype)
        for length, out in zip(x.shape[-3:-1], size, strict=True)
    )
    return separable.resize(x, jnp.asarray(box), (rows, columns), whole_levels, dtype)


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


def gaussian_blur(x: Array, sigma: ArrayLike, kernel_size: int = 17, padding: separable.Padding = 'edge') -> Array:
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
    return separable.blur(x, jnp.asarray(sigma, x.dtype), kernel_size, padding)
