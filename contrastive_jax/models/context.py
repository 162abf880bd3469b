"""The context of CPC: a network on the grid of latents that has seen a patch's own row and those above, none below."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array


class ContextNetwork(nn.Module):
    """PixelCNN-like: residual blocks of masked convolutions, as in the pseudo-code of CPC v2 (arXiv 1905.09272, A.2).

    A block looks one column to either side, one row up and never down, so that with five of them a context has seen
    five rows above it and five columns to either side. No norm: it would join what the mask keeps apart.

    Attributes:
      num_blocks: 5 in the paper.
      hidden_dim: channels of the convolutions inside a block; 256 in the paper.
      dtype: of the computation.
    """

    num_blocks: int = 5
    hidden_dim: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Maps latents [B, R, C, D] to contexts [B, R, C, D], in float32 at least because a loss follows."""
        x = z.astype(self.dtype)
        for i in range(self.num_blocks):
            y = nn.relu(self._conv(self.hidden_dim, (1, 1), f'block{i}_in')(x))
            y = self._conv(self.hidden_dim, (1, 3), f'block{i}_row')(y)
            y = nn.relu(self._conv(self.hidden_dim, (2, 1), f'block{i}_up')(y))
            x += self._conv(z.shape[-1], (1, 1), f'block{i}_out')(y)
        return nn.relu(x).astype(jnp.promote_types(self.dtype, jnp.float32))

    def _conv(self, channels: int, kernel_size: tuple[int, int], name: str) -> nn.Conv:
        rows, columns = kernel_size
        padding = ((rows - 1, 0), (columns // 2, columns // 2))  # rows: above only
        return nn.Conv(channels, kernel_size, padding=padding, dtype=self.dtype, name=name)
