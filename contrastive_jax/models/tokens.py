"""Other features of a trained ViT than its last class token, as DINO's linear probe takes them (arXiv:2104.14294)."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from contrastive_jax.models.vit import VisionTransformer


class Tokens(VisionTransformer):
    """A ViT, with the same parameters, whose features are the class tokens of its last blocks, side by side.

    DINO (eval_linear.py) takes those of 4 blocks of ViT-S; of ViT-B that of the last, and the mean of its patch tokens.

    Attributes:
      last_blocks: n, whose class tokens are taken, each after the final LayerNorm; the last block's stand last.
      average_pool: behind them the mean of the last block's patch tokens.
    """

    last_blocks: int = 1
    average_pool: bool = False

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps images [B, H, W, 3] to features [B, n D], or [B, (n + 1) D]."""
        queries = None if self.average_pool else 1
        layers, _ = self.blocks(x, self.last_blocks, queries=queries, train=train, axis_name=axis_name)
        features = [tokens[:, 0] for tokens in layers]
        if self.average_pool:
            features.append(layers[-1][:, 1:].mean(axis=1))
        return jnp.concatenate(features, axis=1)


def tokens(vit: VisionTransformer, last_blocks: int, average_pool: bool) -> Tokens:
    """The same network with these features."""
    fields = {f.name: getattr(vit, f.name) for f in dataclasses.fields(vit) if f.name not in ('parent', 'name')}
    return Tokens(**fields, last_blocks=last_blocks, average_pool=average_pool)
