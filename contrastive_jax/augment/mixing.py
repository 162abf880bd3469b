"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899): mixes the images and the labels of pairs of examples.

As in timm, which DeiT uses, there is one ratio λ for the whole batch, and image i is mixed with image B - 1 - i. If
both are enabled, each is applied to half of the batches, at random.
"""

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives


def mix(
    key: Array, x: Array, target: Array, *, mixup: float, cutmix: float, axis_name: str | None = None
) -> tuple[Array, Array]:
    """Mixes the images of a batch and their target distributions.

    Args:
      key: the key of the step, the same on all devices.
      x: [b, H, W, C], the local images.
      target: [b, classes], their class probabilities.
      mixup: λ ~ Beta(mixup, mixup) is the weight of an image, at every pixel; 0: no mixup.
      cutmix: λ ~ Beta(cutmix, cutmix) is the area of an image that is kept; the rest is a box with the other image;
        0: no CutMix.
      axis_name: the mapped device axis; None: the whole batch is on one device.

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
    ratio = jnp.where(by_box, jnp.mean(kept), ratio)  # a box partly outside the image covers less
    other_x, other_target = (collectives.reversed_rows(rows, axis_name) for rows in (x, target))
    kept = kept[:, :, None].astype(x.dtype)
    return kept * x + (1 - kept) * other_x, ratio * target + (1 - ratio) * other_target


def outside_box(key: Array, ratio: Array, height: int, width: int) -> Array:
    """float32 [height, width]: 0 in a box around a random pixel, with sqrt(1 - ratio) of each side; 1 elsewhere."""

    def inside(key: Array, size: int) -> Array:
        half = (size * jnp.sqrt(1 - ratio)).astype(jnp.int32) // 2
        center = jax.random.randint(key, (), 0, size)
        return (center - half <= jnp.arange(size)) & (jnp.arange(size) < center + half)

    key_rows, key_columns = jax.random.split(key)
    rows, columns = inside(key_rows, height), inside(key_columns, width)
    return jnp.where(rows[:, None] & columns, 0.0, 1.0)
