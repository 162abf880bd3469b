"""A decoder: from the last feature map of an encoder back to the size of its images."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array


class Decoder(nn.Module):
    """Transposed convolutions with stride 2 and ReLUs, each of which doubles height and width, as in context encoders.

    Each layer but the last has half the channels of the one before it. The layers are named deconv_0, deconv_1, ...

    Attributes:
      doublings: the number of layers.
      width: the channels of the first layer.
      channels: the channels of the output.
      dtype: the dtype of the computation; parameters are float32.
    """

    doublings: int
    width: int
    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, h, w, D] to [B, h 2^doublings, w 2^doublings, channels], in float32 or a wider dtype."""
        for i in range(self.doublings):
            last = i == self.doublings - 1
            channels = self.channels if last else max(self.width // 2**i, 1)
            x = nn.ConvTranspose(channels, (4, 4), (2, 2), dtype=self.dtype, name=f'deconv_{i}')(nn.relu(x))
        return x.astype(jnp.promote_types(self.dtype, jnp.float32))
