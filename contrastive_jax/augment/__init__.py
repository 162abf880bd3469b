"""Augmentation on the device: image operations on batches, and the policy that makes a paper's views of them."""

from contrastive_jax.augment.policy import Policy

__all__ = ['Policy']
