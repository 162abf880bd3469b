"""Contrastive self-supervised vision learning in JAX: Momentum Contrast and its family."""
