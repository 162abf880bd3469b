"""Weights in and out: published checkpoints into our encoders, and our encoders to where they are used."""

from contrastive_jax.pretrained.load import load
from contrastive_jax.pretrained.weights import Weights, save

__all__ = ['Weights', 'load', 'save']
