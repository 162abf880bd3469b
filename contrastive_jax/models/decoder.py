"""A decoder: from the last feature map of an encoder back to the size of its images."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array


class Decoder(nn.Module):
    """Transposed convolutions with stride 2, each of which doubles height and width, and a 3x3 convolution at the end.

    A ReLU precedes every layer, and each transposed convolution has half the channels of the one before it, as in
    context encoders (arXiv 1604.07379). The layers are named deconv_0, deconv_1, ... and image.

    Attributes:
      doublings: the number of transposed convolutions.
      width: the channels of the first transposed convolution.
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
            channels = max(self.width // 2**i, 1)
            x = nn.ConvTranspose(channels, (4, 4), (2, 2), dtype=self.dtype, name=f'deconv_{i}')(nn.relu(x))
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name='image')(nn.relu(x))
        return x.astype(jnp.promote_types(self.dtype, jnp.float32))
