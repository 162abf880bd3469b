"""Features of a trained ViT from several blocks and from patch tokens, as in DINO's linear probe (arXiv:2104.14294)."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from contrastive_jax.models.vit import VisionTransformer


class Tokens(VisionTransformer):
    """A ViT with the same parameters whose features are the concatenated class tokens of its last blocks.

    DINO (eval_linear.py) uses the class tokens of the last 4 blocks of ViT-S; for ViT-B it uses the last class token
    and the mean of the patch tokens.

    Attributes:
      last_blocks: n, the number of blocks. Their class tokens, after the final LayerNorm, keep the blocks' order.
      average_pool: whether to append the mean of the patch tokens of the last block.
    """

    last_blocks: int = 1
    average_pool: bool = False

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps images [B, H, W, C] to features [B, n D], or [B, (n + 1) D] with `average_pool`."""
        queries = None if self.average_pool else 1
        layers, _ = self.blocks(x, self.last_blocks, queries=queries, train=train, axis_name=axis_name)
        features = [tokens[:, 0] for tokens in layers]
        if self.average_pool:
            features.append(layers[-1][:, 1:].mean(axis=1))
        return jnp.concatenate(features, axis=1)


def tokens(vit: VisionTransformer, last_blocks: int, average_pool: bool) -> Tokens:
    """The same ViT with the features of `Tokens`."""
    fields = {f.name: getattr(vit, f.name) for f in dataclasses.fields(vit) if f.name not in ('parent', 'name')}
    return Tokens(**fields, last_blocks=last_blocks, average_pool=average_pool)
