"""Trained encoders: loading them from runs, files and published checkpoints, and saving and exporting them."""

from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.encoder_file import save
from contrastive_jax.pretrained.export import write
from contrastive_jax.pretrained.load import load

__all__ = ['Encoder', 'load', 'save', 'write']
