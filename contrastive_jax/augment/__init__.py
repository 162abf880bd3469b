"""Augmentation on the device.

- policy     `Policy`, the augmentation of a recipe: which operations, how strong and how often
- views      the views that a method gets in a training step
- color, geometry, spaces, mixing   image operations on batches
- planes     the color arithmetic on separate planes of red, green and blue
- crops      where random crops are, also used by the loader on the host
- patches    the patches of an image, each with its own augmentation (CPC, relative position, jigsaw)
- styles     how the libraries behind the papers differ in these operations
"""

from contrastive_jax.augment.policy import Policy

__all__ = ['Policy']
