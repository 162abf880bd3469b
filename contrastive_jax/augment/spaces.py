"""Color spaces for CMC, where one encoder gets the lightness of an image and the other its colors.

The constants are those of skimage, which CMC was trained with.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from contrastive_jax.augment.planes import Planes, join, split, weighted

# The matrix from linear sRGB to CIE XYZ, and the white point D65.
XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)

YCBCR_FROM_RGB = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
YCBCR_SHIFT = (16.0, 128.0, 128.0)


def from_rgb(x: Array, space: str) -> Array:
    """Converts RGB in [0, 1] to a color space, a key of SPACES, in its own units. x is [..., 3]."""
    return join(SPACES[space][0](split(x)))


def to_rgb(x: Array, space: str) -> Array:
    """Converts a color space, a key of SPACES, to RGB clipped to [0, 1]. x is [..., 3]."""
    red, green, blue = (jnp.clip(c, 0, 1) for c in SPACES[space][1](split(x)))
    return join((red, green, blue))


def rgb_to_lab(planes: Planes) -> Planes:
    """CIE L*a*b* of sRGB in [0, 1], for D65 and the 2 degree observer: L in [0, 100], a and b in about ±100."""
    linear = [jnp.where(c > 0.04045, _power((c + 0.055) / 1.055, 2.4), c / 12.92) for c in planes]
    # XYZ relative to the white point.
    xyz = [weighted(row, linear) / white for row, white in zip(XYZ_FROM_RGB, WHITE, strict=True)]
    x, y, z = (jnp.where(t > 0.008856, _power(t, 1 / 3), 7.787 * t + 16 / 116) for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def lab_to_rgb(planes: Planes) -> Planes:
    """The inverse of `rgb_to_lab`, for colors inside sRGB."""
    lightness, a, b = planes
    y = (lightness + 16) / 116
    xyz = [
        white * jnp.where(t > 6 / 29, t**3, (t - 16 / 116) / 7.787)
        for t, white in zip((y + a / 500, y, y - b / 200), WHITE, strict=True)
    ]
    linear = [jnp.maximum(weighted(row, xyz), 0) for row in np.linalg.inv(XYZ_FROM_RGB).tolist()]
    red, green, blue = (jnp.where(c > 0.0031308, 1.055 * _power(c, 1 / 2.4) - 0.055, 12.92 * c) for c in linear)
    return red, green, blue


def rgb_to_ycbcr(planes: Planes) -> Planes:
    """ITU-R BT.601 in 8-bit levels: Y in [16, 235], Cb and Cr in [16, 240]."""
    y, cb, cr = (shift + weighted(row, planes) for row, shift in zip(YCBCR_FROM_RGB, YCBCR_SHIFT, strict=True))
    return y, cb, cr


def ycbcr_to_rgb(planes: Planes) -> Planes:
    """The inverse of `rgb_to_ycbcr`."""
    moved = [plane - shift for plane, shift in zip(planes, YCBCR_SHIFT, strict=True)]
    red, green, blue = (weighted(row, moved) for row in np.linalg.inv(YCBCR_FROM_RGB).tolist())
    return red, green, blue


def _power(x: Array, exponent: float) -> Array:
    """x ** exponent for x >= 0, from functions that XLA vectorizes: ten times as fast on a CPU, exact in float32."""
    return jnp.exp(exponent * jnp.log(x))


# name -> (the function from RGB, the function to RGB)
SPACES: dict[str, tuple[Callable[[Planes], Planes], Callable[[Planes], Planes]]] = {
    'rgb': (lambda planes: planes, lambda planes: planes),
    'lab': (rgb_to_lab, lab_to_rgb),
    'ycbcr': (rgb_to_ycbcr, ycbcr_to_rgb),
}
