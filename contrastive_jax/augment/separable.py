"""Linear operations on images that are separable: each output pixel is a weighted sum of a few rows and columns.

On accelerators and for small images an operation is two dense matrix products, `rows @ image @ columns.T`, without
gathers. For large images a CPU would spend its time on products with zero: for it, an operation is two sums of a few
rows. The weights of both forms are the same, and so are the results up to the order of the sums.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Kernel = Callable[[Array], Array]
Padding = Literal['edge', 'reflect', 'zero']

LARGE = 128  # pixels from which a CPU is faster with sums
MAX_TAPS = 32  # of these sums, which are unrolled


class Taps(NamedTuple):
    """Output pixel i is the sum over t of `weight[..., i, t]` times pixel `at[..., i, t]`; both are [..., out, T]."""

    at: Array
    weight: Array


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How boxes are resized along one axis.

    Attributes:
      kernel: the weight at a distance in pixels.
      radius: distances from which on the kernel is 0.
      antialias: whether the kernel widens if the box is reduced.
      clamp: without `antialias`, whether pixels outside the box are replaced by its border.
      length: the number of pixels of the image.
      out: the number of pixels of the result.
      dtype: the dtype of the weights.
    """

    kernel: Kernel
    radius: int
    antialias: bool
    clamp: bool
    length: int
    out: int
    dtype: jnp.dtype

    @property
    def count(self) -> int:
        """T, the largest number of pixels that an output pixel depends on."""
        reduced = max(1.0, self.length / self.out) if self.antialias else 1.0
        return math.ceil(2 * self.radius * reduced)

    def dense(self, start: Array, extent: Array) -> Array:
        """The weight of each pixel in each output pixel, [..., out, length], for boxes of `extent` pixels [...]."""
        if self._clamped:
            at, weight = self.taps(start, extent)
            return jnp.sum(weight[..., None] * (at[..., None] == jnp.arange(self.length)), axis=-2, dtype=self.dtype)
        return self._weights(jnp.arange(self.length) - start[..., None, None], extent)

    def taps(self, start: Array, extent: Array) -> Taps:
        """The same as `Taps`."""
        i, out, begin = jnp.arange(self.out)[:, None], self.out, start[..., None, None]
        width = extent[..., None, None]
        if self._clamped:  # taps outside the box are moved to its border
            whole, part = jnp.divmod((2 * i + 1) * width - out, 2 * out)  # [..., out, 1]
            tap = jnp.arange(-1, 3)
            weight = self.kernel(tap - part.astype(self.dtype) / (2 * out))
            return Taps(begin + jnp.clip(whole + tap, 0, width - 1), weight)
        reach = 2 * self.radius * (jnp.maximum(width, out) if self.antialias else out)
        first = ((2 * i + 1) * width - out - reach) // (2 * out) + 1  # the first pixel nearer than the radius
        pixel = first + jnp.arange(self.count)  # [..., out, T]
        return Taps(jnp.clip(begin + pixel, 0, self.length - 1), self._weights(pixel, extent))

    @property
    def _clamped(self) -> bool:
        return self.clamp and not self.antialias

    def _weights(self, pixel: Array, extent: Array) -> Array:
        """The weights of pixels, which are counted from the start of the box; those outside of it have none."""
        # The center of output pixel i is at (2 i + 1) extent / (2 out), and that of pixel p of the box at p + 1/2.
        # Their distance times 2 out is an integer, so only one division is rounded.
        out, extent = self.out, extent[..., None, None]
        distance = (2 * pixel + 1) * out - (2 * jnp.arange(out)[:, None] + 1) * extent
        scale = 2 * (jnp.maximum(extent, out) if self.antialias else out)
        weights = jnp.where((pixel >= 0) & (pixel < extent), self.kernel(distance.astype(self.dtype) / scale), 0)
        return weights / weights.sum(axis=-1, keepdims=True)


def resize(
    x: Array, box: Array, resamplings: tuple[Resampling, Resampling], whole_levels: bool, dtype: jnp.dtype
) -> Array:
    """Resizes boxes of images.

    Args:
      x: [..., H, W, C].
      box: int [..., 4] or [4]: top, left, height, width.
      resamplings: how the rows and how the columns are resized.
      whole_levels: see `geometry.resized_crop`.
      dtype: the dtype of the result.

    Returns:
      [..., h, w, C].
    """
    of_rows, of_columns = resamplings

    def dense(x: Array, box: Array) -> Array:
        top, left, height, width = jnp.moveaxis(box, -1, 0)
        rows, columns = of_rows.dense(top, height), of_columns.dense(left, width)
        # Full precision, because accelerators would round the weights to so few bits that gray levels change.
        return _products(x.astype(dtype), rows, columns, whole_levels, lax.Precision.HIGHEST)

    def sparse(x: Array, box: Array) -> Array:
        top, left, height, width = jnp.moveaxis(box, -1, 0)
        return _sums(x, of_rows.taps(top, height), of_columns.taps(left, width), whole_levels, dtype)

    if not _large(x) or max(of_rows.count, of_columns.count) > MAX_TAPS:
        return dense(x, box)
    return lax.platform_dependent(x, box, cpu=sparse, default=dense)


def blur(x: Array, sigma: Array, kernel_size: int, padding: Padding) -> Array:
    """A Gaussian blur, see `geometry.gaussian_blur`; sigma is [...]."""

    def dense(x: Array, weight: Array) -> Array:
        def matrix(length: int) -> Array:
            source = _padded(length, kernel_size, padding)
            is_source = (source[..., None] == np.arange(length)).astype(weight.dtype)
            return jnp.einsum('...k,kix->...ix', weight, is_source)

        rows = matrix(x.shape[-3])
        return _products(x, rows, rows if x.shape[-3] == x.shape[-2] else matrix(x.shape[-2]))

    def sparse(x: Array, weight: Array) -> Array:
        mode: Any = 'constant' if padding == 'zero' else padding
        for axis in (x.ndim - 2, x.ndim - 3):
            around = [(0, 0)] * x.ndim
            around[axis] = (kernel_size // 2, kernel_size // 2)
            padded = lax.optimization_barrier(jnp.pad(x, around, mode=mode))  # otherwise each tap would pad it
            terms = [
                weight[..., k, None, None, None] * lax.slice_in_dim(padded, k, k + x.shape[axis], axis=axis)
                for k in range(kernel_size)
            ]
            x = functools.reduce(operator.add, terms)
        return x

    offset = jnp.arange(kernel_size, dtype=x.dtype) - kernel_size // 2
    weight = jnp.exp(-0.5 * (offset / sigma[..., None]) ** 2)
    weight /= weight.sum(axis=-1, keepdims=True)  # [..., kernel_size]
    if not _large(x) or kernel_size > MAX_TAPS:
        return dense(x, weight)
    return lax.platform_dependent(x, weight, cpu=sparse, default=dense)


def _large(x: Array) -> bool:
    return min(x.shape[-3:-1]) >= LARGE


def _padded(length: int, kernel_size: int, padding: Padding) -> np.ndarray:
    """The pixel that each tap of each output pixel reads, int [kernel_size, length]; -1: none."""
    radius, pixels = kernel_size // 2, np.arange(length)
    source = np.pad(pixels, radius, constant_values=-1) if padding == 'zero' else np.pad(pixels, radius, mode=padding)
    return np.stack([source[k : k + length] for k in range(kernel_size)])


def _products(
    x: Array, rows: Array, columns: Array, whole_levels: bool = False, precision: lax.Precision | None = None
) -> Array:
    """Applies rows [..., h, H] and columns [..., w, W] to x [..., H, W, C]; returns [..., h, w, C].

    The columns come first, as in PIL (but Pillow 13 reverses the order for some boxes that are reduced in height).
    """
    # In the layout [..., H, C, W] both steps are batched matrix products, (H C) x W and H x (C w), without transposes.
    y = jnp.swapaxes(x, -1, -2)
    y = _finish(jnp.einsum('...hcw,...jw->...hcj', y, columns, precision=precision), whole_levels)
    y = _finish(jnp.einsum('...ih,...hcj->...icj', rows, y, precision=precision), whole_levels)
    return jnp.swapaxes(y, -1, -2)


def _sums(x: Array, rows: Taps, columns: Taps, whole_levels: bool, dtype: jnp.dtype) -> Array:
    """The same with taps: pixels that are summed lie one after another in memory."""
    y = jnp.swapaxes(x, -2, -3)  # [..., W, H, C]
    y = _finish(_sum(y, columns, dtype), whole_levels)
    y = y.astype(jnp.uint8) if whole_levels else y  # fewer bytes
    return _finish(_sum(jnp.swapaxes(y, -2, -3), rows, dtype), whole_levels)


def _sum(x: Array, taps: Taps, dtype: jnp.dtype) -> Array:
    """Sums over the third axis from the end: x [..., N, M, C] -> [..., out, M, C]."""
    *batch, n, m, c = x.shape
    flat = lax.optimization_barrier(x.reshape(*batch, n, m * c))  # otherwise its transpose is fused into each gather
    at = jnp.broadcast_to(taps.at, (*batch, *taps.at.shape[-2:]))
    at, weight = lax.optimization_barrier((at, taps.weight.astype(dtype)))
    terms = [
        weight[..., t, None] * jnp.take_along_axis(flat, at[..., t, None], axis=-2, mode='clip').astype(dtype)
        for t in range(at.shape[-1])
    ]
    return functools.reduce(operator.add, terms).reshape(*batch, at.shape[-2], m, c)


def _finish(y: Array, whole_levels: bool) -> Array:
    # Halves are frequent, as the mean of two pixels. The 2**-12 rounds them all up, in whatever order a device sums, so
    # that a difference in the last bit of a float does not become a difference of a gray level.
    return jnp.clip(jnp.floor(y + (0.5 + 2**-12)), 0, 255) if whole_levels else y
