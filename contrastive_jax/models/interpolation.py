"""The kernels of bilinear and bicubic interpolation, for NumPy and for jax.numpy.

ViTs resize learned positions with them, `augment` and `data` resize images. `xp` is `numpy` or `jax.numpy`.
"""

from typing import Any

Array = Any  # an array of NumPy or of JAX


def triangle(t: Array, xp: Any) -> Array:
    """The weight of a pixel at distance t, in pixels, in bilinear interpolation."""
    return xp.maximum(0, 1 - xp.abs(t))


def cubic(t: Array, xp: Any, a: float = -0.5) -> Array:
    """The weight of a pixel at distance t, in pixels, in bicubic interpolation (Keys 1981).

    Args:
      t: distances, of any shape.
      xp: `numpy` or `jax.numpy`.
      a: the free parameter: -0.5 in PIL, TensorFlow, and torch with antialiasing; -0.75 in torch without.
    """
    t = xp.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return xp.where(t < 1, near, xp.where(t < 2, far, 0))
