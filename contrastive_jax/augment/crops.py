"""Where a random crop lies, and the kernels that resize it: arithmetic that host and device share.

The host cuts crops with NumPy, the device with jax.numpy: `xp` is one or the other. Boxes are made of uniform numbers
in [0, 1), four for each attempt, so each side brings its own source of randomness.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

# An array of either kind.
Array = Any

# What `box` functions are given: numbers [4, attempts] for the area (or height), the aspect, the row and the column;
# height and width of the image; the range of the area, as a fraction of the image's, and of width / height; xp. They
# return integers [4]: top, left, height, width.
Box = Callable[[Array, int, int, Sequence[float], Sequence[float], Any], Array]

# SimCLR asks for crops that hold a tenth of the object, and takes the whole image for it.
MIN_OBJECT_COVERED = 0.1


def torchvision_box(
    u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any
) -> Array:
    """As `RandomResizedCrop.get_params`: area uniform, aspect log-uniform, the first attempt that fits.

    If none does, the largest centred box with an allowed ratio.
    """
    _, _, down, right = u
    h, w = _log_uniform_sides(u, height, width, scale, ratio, xp)
    top = (down * (height - h + 1)).astype(xp.int32)
    left = (right * (width - w + 1)).astype(xp.int32)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    return _first((top, left, h, w), fits, central_box(height, width, ratio), xp)


def byol_box(u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any) -> Array:
    """As BYOL's `_decode_and_random_crop`: torchvision's first attempt, a side that is too long cut to the image."""
    _, _, down, right = u
    h, w = _log_uniform_sides(u, height, width, scale, ratio, xp)
    h, w = xp.clip(h, 1, height), xp.clip(w, 1, width)
    top = (down * (height - h + 1)).astype(xp.int32)
    left = (right * (width - w + 1)).astype(xp.int32)
    return xp.stack([top[0], left[0], h[0], w[0]])


def tensorflow_box(u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any) -> Array:
    """As TensorFlow's `sample_distorted_bounding_box`, which SimCLR calls with the whole image as the object.

    Not torchvision's distribution: the aspect is uniform, not its logarithm, and given the aspect the height is
    uniform, not the area, so small crops are more frequent. A box of less than a tenth of the image is drawn again
    (`min_object_covered`), whatever the least area. The last row and the last column are left out of all crops but
    those as high or as wide as the image. If no attempt fits, the whole image.
    """
    tall, aspect, down, right = u
    aspect = ratio[0] + (ratio[1] - ratio[0]) * aspect
    least, most = scale[0] * height * width, scale[1] * height * width
    high = xp.minimum(xp.round(xp.sqrt(most / aspect)), height)
    high = xp.where(xp.round(high * aspect) > width, xp.floor((width + 0.5) / aspect), high)
    high = xp.where(xp.round(high * aspect) > width, high - 1, high)  # of the halves, every other is rounded up
    low = xp.minimum(xp.round(xp.sqrt(least / aspect)), high)
    h = low + xp.floor(tall * (high - low + 1))
    h = xp.where(h * xp.round(h * aspect) < least, h + 1, h)  # one pixel makes good what the rounding did
    h = xp.where(h * xp.round(h * aspect) > most, h - 1, h)
    h, w = h.astype(xp.int32), xp.round(h * aspect).astype(xp.int32)
    area = h * w
    fits = (area >= least) & (area <= most) & (area >= MIN_OBJECT_COVERED * height * width)
    fits &= (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top = (down * xp.maximum(height - h, 1)).astype(xp.int32)
    left = (right * xp.maximum(width - w, 1)).astype(xp.int32)
    return _first((top, left, h, w), fits, (0, 0, height, width), xp)


def central_box(height: int, width: int, ratio: Sequence[float]) -> tuple[int, int, int, int]:
    """The largest centred box with an allowed width / height: top, left, height, width."""
    h, w = height, width
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def triangle(t: Array, xp: Any) -> Array:
    """The kernel of bilinear interpolation."""
    return xp.maximum(0, 1 - xp.abs(t))


def cubic(t: Array, xp: Any, a: float = -0.5) -> Array:
    """Keys' cubic convolution kernel (1981), of bicubic interpolation."""
    t = xp.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return xp.where(t < 1, near, xp.where(t < 2, far, 0))


def _log_uniform_sides(
    u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any
) -> tuple[Array, Array]:
    """Height and width of a uniform area and a log-uniform aspect, rounded."""
    area, log_ratio, _, _ = u
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    aspect = xp.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * log_ratio)
    h, w = xp.round(xp.sqrt(area / aspect)), xp.round(xp.sqrt(area * aspect))
    return h.astype(xp.int32), w.astype(xp.int32)


def _first(candidates: Sequence[Array], fits: Array, otherwise: Sequence[int], xp: Any) -> Array:
    """The first of the candidates, each [attempts], that fits."""
    return xp.where(fits.any(), xp.stack(candidates)[:, xp.argmax(fits)], xp.asarray(otherwise, xp.int32))
