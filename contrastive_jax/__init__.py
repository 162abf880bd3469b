"""Contrastive self-supervised vision learning in JAX: Momentum Contrast and its family."""

__version__ = '0.1.0'
