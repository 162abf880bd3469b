"""From an image to the tokens of a ViT: a linear map of each patch, or convolutions."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax.models.heads import torch_uniform, uniform
from contrastive_jax.models.norm import BatchNorm

CONV_STEM_STRIDE = 16


class PatchEmbed(nn.Module):
    """Cuts images into patches and maps each linearly; 'proj' has a kernel [p, p, C, width], as a convolution has.

    Attributes:
      patch_size: p, the height and width of a patch, in pixels.
      width: the channels of a token.
      kernel_init: 'xavier', or 'trunc_normal', where the kernel is initialized as torch's convolutions, as in DINO.
      dtype: the dtype of the computation; parameters are float32.
    """

    patch_size: int
    width: int
    kernel_init: str = 'xavier'
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to tokens [B, H/p, W/p, width]."""
        p = self.patch_size
        b, h, w, c = x.shape
        patches = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)  # [B, H/p, W/p, p, p, C]
        # Xavier over the flattened kernel is MoCo v3's bound √(6 / (3p² + width)).
        xavier = self.kernel_init == 'xavier'
        return nn.DenseGeneral(
            self.width,
            axis=(-3, -2, -1),
            kernel_init=nn.initializers.xavier_uniform() if xavier else torch_uniform,
            bias_init=nn.initializers.zeros if xavier else uniform((p * p * c) ** -0.5),
            dtype=self.dtype,
            name='proj',
        )(patches)


class ConvStem(nn.Module):
    """Four 3x3 convolutions of stride 2 with batch norm and ReLU, then a 1x1 one (Xiao et al., arXiv:2106.14881).

    Attributes:
      width: the channels of a token; the 3x3 convolutions have 1/8, 1/4, 1/2 and all of them.
      bn_group_size: the number of examples that share BN statistics; see `BatchNorm`.
      bn_momentum: the momentum of the running statistics.
      bn_epsilon: added to the variance.
      dtype: the dtype of the computation; parameters are float32.
    """

    width: int
    bn_group_size: int | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps [B, H, W, C] to tokens [B, H/16, W/16, width]."""
        for i in range(4):
            channels = self.width // 2 ** (3 - i)
            x = nn.Conv(
                channels,
                (3, 3),
                strides=2,
                padding=1,
                use_bias=False,
                kernel_init=torch_uniform,
                dtype=self.dtype,
                name=f'conv_{i}',
            )(x)
            x = BatchNorm(
                group_size=self.bn_group_size,
                momentum=self.bn_momentum,
                epsilon=self.bn_epsilon,
                dtype=self.dtype,
                name=f'bn_{i}',
            )(x, train=train, axis_name=axis_name)
            x = nn.relu(x)
        bias_init = uniform(x.shape[-1] ** -0.5)
        return nn.Conv(
            self.width, (1, 1), kernel_init=torch_uniform, bias_init=bias_init, dtype=self.dtype, name='proj'
        )(x)
