"""The boxes of random crops; this arithmetic is shared by the host and the device.

The host uses NumPy and the device jax.numpy, which are passed as `xp`. Boxes are computed from uniform numbers in
[0, 1), four for each attempt, so host and device use their own random generators.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

Array = Any  # an array of NumPy or of JAX

# A function (u, height, width, scale, ratio, xp) that computes one box. `u` [4, attempts] are uniform numbers in [0, 1)
# for the area (or the height), the aspect ratio, the row and the column; `height` and `width` are those of the image,
# in pixels; `scale` is the range of the area, as a fraction of the image's; `ratio` is the range of width / height. It
# returns integers [4]: top, left, height, width.
Box = Callable[[Array, int, int, Sequence[float], Sequence[float], Any], Array]

# SimCLR requires crops to cover at least a tenth of the object, which it defines as the whole image.
MIN_OBJECT_COVERED = 0.1


def torchvision_box(
    u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any
) -> Array:
    """A box as in torchvision's `RandomResizedCrop.get_params`; see `Box`.

    The area is uniform and the aspect ratio log-uniform. The first attempt that fits into the image is used, or else
    the largest centered box with an allowed ratio.
    """
    _, _, down, right = u
    h, w = _log_uniform_sides(u, height, width, scale, ratio, xp)
    top = (down * (height - h + 1)).astype(xp.int32)
    left = (right * (width - w + 1)).astype(xp.int32)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    return _first((top, left, h, w), fits, central_box(height, width, ratio), xp)


def byol_box(u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any) -> Array:
    """A box as in BYOL's `_decode_and_random_crop`: torchvision's first attempt, with sides clipped to the image's."""
    _, _, down, right = u
    h, w = _log_uniform_sides(u, height, width, scale, ratio, xp)
    h, w = xp.clip(h, 1, height), xp.clip(w, 1, width)
    top = (down * (height - h + 1)).astype(xp.int32)
    left = (right * (width - w + 1)).astype(xp.int32)
    return xp.stack([top[0], left[0], h[0], w[0]])


def tensorflow_box(u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any) -> Array:
    """A box as in TensorFlow's `sample_distorted_bounding_box`, which SimCLR calls with the whole image as the object.

    The distribution differs from torchvision's: the aspect ratio is uniform instead of its logarithm, and the height is
    uniform given the aspect ratio instead of the area, so small crops are more frequent. A box of less than a tenth of
    the image is drawn again (`min_object_covered`) whatever `scale` is. A crop includes the last row only if it is as
    high as the image, and the last column only if it is as wide. If no attempt fits, the box is the whole image.
    """
    tall, aspect, down, right = u
    aspect = ratio[0] + (ratio[1] - ratio[0]) * aspect
    least, most = scale[0] * height * width, scale[1] * height * width
    high = xp.minimum(xp.round(xp.sqrt(most / aspect)), height)
    high = xp.where(xp.round(high * aspect) > width, xp.floor((width + 0.5) / aspect), high)
    high = xp.where(xp.round(high * aspect) > width, high - 1, high)  # `round` rounds halves to even
    low = xp.minimum(xp.round(xp.sqrt(least / aspect)), high)
    h = low + xp.floor(tall * (high - low + 1))
    h = xp.where(h * xp.round(h * aspect) < least, h + 1, h)  # corrects the rounding
    h = xp.where(h * xp.round(h * aspect) > most, h - 1, h)
    h, w = h.astype(xp.int32), xp.round(h * aspect).astype(xp.int32)
    area = h * w
    fits = (area >= least) & (area <= most) & (area >= MIN_OBJECT_COVERED * height * width)
    fits &= (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top = (down * xp.maximum(height - h, 1)).astype(xp.int32)
    left = (right * xp.maximum(width - w, 1)).astype(xp.int32)
    return _first((top, left, h, w), fits, (0, 0, height, width), xp)


def central_box(height: int, width: int, ratio: Sequence[float]) -> tuple[int, int, int, int]:
    """The largest centered box with an allowed width / height: top, left, height, width."""
    h, w = height, width
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _log_uniform_sides(
    u: Array, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], xp: Any
) -> tuple[Array, Array]:
    """Rounded heights and widths, each [attempts], for a uniform area and a log-uniform aspect ratio."""
    area, log_ratio, _, _ = u
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    aspect = xp.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * log_ratio)
    h, w = xp.round(xp.sqrt(area / aspect)), xp.round(xp.sqrt(area * aspect))
    return h.astype(xp.int32), w.astype(xp.int32)


def _first(candidates: Sequence[Array], fits: Array, otherwise: Sequence[int], xp: Any) -> Array:
    """The first attempt that fits, or `otherwise`; candidates are (top, left, height, width), each [attempts]."""
    return xp.where(fits.any(), xp.stack(candidates)[:, xp.argmax(fits)], xp.asarray(otherwise, xp.int32))
