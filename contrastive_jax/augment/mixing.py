"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899): an image and its label become those of two.

As in timm, and so in DeiT: one ratio λ for the whole batch, whose image i is mixed with image B - 1 - i. Where both are
wanted each is taken for half of the batches.
"""

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives


def mix(
    key: Array, x: Array, target: Array, *, mixup: float, cutmix: float, axis_name: str | None = None
) -> tuple[Array, Array]:
    """Mixes the images of a batch, and what they should be recognised as.

    Args:
      key: of the step, the same on all devices.
      x: [b, H, W, C] images.
      target: [b, classes], rows that sum to 1.
      mixup: λ ~ Beta(mixup, mixup) is how much of an image is kept, everywhere; 0: no mixup.
      cutmix: λ ~ Beta(cutmix, cutmix) is how much of an image is outside a box with the other image; 0: no CutMix.
      axis_name: the mapped device axis.

    Returns:
      Images and targets of the same shapes.
    """
    if not mixup and not cutmix:
        return x, target
    key_which, key_ratio, key_box = jax.random.split(key, 3)
    by_box = jax.random.uniform(key_which) < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = jnp.where(by_box, cutmix, mixup)
    ratio = jax.random.beta(key_ratio, alpha, alpha)  # λ
    kept = jnp.where(by_box, outside_box(key_box, ratio, *x.shape[1:3]), ratio)  # [H, W]
    ratio = jnp.where(by_box, jnp.mean(kept), ratio)  # a box that sticks out of the image covers less
    other_x, other_target = (collectives.reversed_rows(rows, axis_name) for rows in (x, target))
    kept = kept[:, :, None].astype(x.dtype)
    return kept * x + (1 - kept) * other_x, ratio * target + (1 - ratio) * other_target


def outside_box(key: Array, ratio: Array, height: int, width: int) -> Array:
    """float32[height, width]: 0 in a box of sqrt(1 - ratio) of the sides around a random pixel, 1 elsewhere."""

    def inside(key: Array, size: int) -> Array:
        half = (size * jnp.sqrt(1 - ratio)).astype(jnp.int32) // 2
        centre = jax.random.randint(key, (), 0, size)
        return (centre - half <= jnp.arange(size)) & (jnp.arange(size) < centre + half)

    key_rows, key_columns = jax.random.split(key)
    rows, columns = inside(key_rows, height), inside(key_columns, width)
    return jnp.where(rows[:, None] & columns, 0.0, 1.0)
