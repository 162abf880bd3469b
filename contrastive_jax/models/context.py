"""The context network of CPC: each context depends on the latents in its own row and above, on none below."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array


class ContextNetwork(nn.Module):
    """Residual blocks of masked convolutions like PixelCNN's, as in the pseudo-code of CPC v2 (arXiv:1905.09272, A.2).

    A block sees one column to the left and to the right, and one row above. With five blocks, a context depends on its
    own row, five rows above it, and five columns to each side. There is no normalization, because its statistics would
    include the rows below.

    Attributes:
      num_blocks: the number of residual blocks; 5 in the paper.
      hidden_dim: the channels of the convolutions inside a block; 256 in the paper.
      dtype: the dtype of the computation; parameters are float32.
    """

    num_blocks: int = 5
    hidden_dim: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Maps latents [B, R, C, D] on a grid of patches to contexts [B, R, C, D], in float32 or a wider dtype."""
        x = z.astype(self.dtype)
        for i in range(self.num_blocks):
            y = nn.relu(self._conv(self.hidden_dim, (1, 1), f'block{i}_in')(x))
            y = self._conv(self.hidden_dim, (1, 3), f'block{i}_row')(y)
            y = nn.relu(self._conv(self.hidden_dim, (2, 1), f'block{i}_up')(y))
            x += self._conv(z.shape[-1], (1, 1), f'block{i}_out')(y)
        return nn.relu(x).astype(jnp.promote_types(self.dtype, jnp.float32))

    def _conv(self, channels: int, kernel_size: tuple[int, int], name: str) -> nn.Conv:
        rows, columns = kernel_size
        padding = ((rows - 1, 0), (columns // 2, columns // 2))  # rows are padded only above
        return nn.Conv(channels, kernel_size, padding=padding, dtype=self.dtype, name=name)
