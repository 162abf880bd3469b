"""The position embeddings of ViTs: MoCo v3's fixed ones, and DINO's way to resize learned ones."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from contrastive_jax.models.interpolation import cubic


def sincos_position(height: int, width: int, dim: int, temperature: float = 10_000.0) -> np.ndarray:
    """The fixed 2-D position embedding of MoCo v3 (`vits.py`), with a row of zeros for the class token.

    Half of the channels encode one coordinate, half the other: sin and cos of coordinate / temperature^(i / (dim/4)).
    The authors build the grid with 'ij' indexing of (width, height): patch n of the row-major sequence gets the
    coordinates (n // height, n % height). For square images these are (row, column); for other images they are not
    aligned with rows. They are kept because the authors' checkpoints were trained with them.

    Args:
      height: the number of patches in a column.
      width: the number of patches in a row.
      dim: the number of channels, a multiple of 4.
      temperature: the base of the wavelengths.

    Returns:
      float64 [1 + height * width, dim].

    Raises:
      ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f'ViT width {dim} must be a multiple of 4 for sin-cos positions; use {dim - dim % 4 + 4}')
    omega = temperature ** -(np.arange(dim // 4) / (dim // 4))
    first, second = np.meshgrid(np.arange(width), np.arange(height), indexing='ij')
    angle_1, angle_2 = first.reshape(-1, 1) * omega, second.reshape(-1, 1) * omega
    position = np.concatenate([np.sin(angle_1), np.cos(angle_1), np.sin(angle_2), np.cos(angle_2)], axis=1)
    return np.concatenate([np.zeros((1, dim)), position])


def resize_positions(position: Array, height: int, width: int) -> Array:
    """Interpolates learned positions to another grid, as DINO does.

    Args:
      position: [1 + N, D], the positions of the class token and of a square grid of N patches.
      height, width: the number of patches in a column and in a row of the new grid.

    Returns:
      [1 + height * width, D].
    """
    side = math.isqrt(len(position) - 1)
    if (height, width) == (side, side):
        return position
    rows, columns = (jnp.asarray(bicubic(side, size), position.dtype) for size in (height, width))
    grid = position[1:].reshape(side, side, -1)
    grid = jnp.einsum('hr,wc,rcd->hwd', rows, columns, grid, precision=lax.Precision.HIGHEST)
    return jnp.concatenate([position[:1], grid.reshape(height * width, -1)])


def bicubic(source: int, target: int) -> np.ndarray:
    """The weights of DINO's interpolation of `source` learned positions to `target`, along one axis of the image.

    The kernel is torch's bicubic one (a = -0.75), without antialiasing; positions beyond the border repeat the border.
    The authors use the scale (target + 0.1) / source, so that rounding never loses a patch, and torch samples at this
    scale; target / source would give other positions.

    Returns:
      float64 [target, source].
    """
    at = (np.arange(target) + 0.5) * source / (target + 0.1) - 0.5  # the target's patches in units of source patches
    weights = np.zeros((target, source))
    for tap in range(-1, 3):
        index = np.floor(at).astype(int) + tap
        np.add.at(weights, (np.arange(target), np.clip(index, 0, source - 1)), cubic(at - index, np, a=-0.75))
    return weights
