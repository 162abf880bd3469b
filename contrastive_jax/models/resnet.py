"""ResNets in torchvision's layout: symmetric padding, and the stride in the 3x3 convolution ("v1.5")."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from contrastive_jax.models.norm import BatchNorm

Array = jax.Array

# The convolutions of a block: (kernel size, whether it carries the block's stride, output channels / stage channels).
BLOCKS: dict[str, tuple[tuple[int, bool, int], ...]] = {
    'basic': ((3, True, 1), (3, False, 1)),
    'bottleneck': ((1, False, 1), (3, True, 1), (1, False, 4)),
}

RESNETS: dict[str, dict[str, Any]] = {
    # 0.3 M parameters for tests and 8 px digits; our own size, from no paper.
    'resnet_tiny': {'stage_sizes': (1, 1, 1, 1), 'block': 'basic', 'width': 16, 'stem': 'cifar'},
    'resnet18': {'stage_sizes': (2, 2, 2, 2), 'block': 'basic'},
    'resnet34': {'stage_sizes': (3, 4, 6, 3), 'block': 'basic'},
    'resnet50': {'stage_sizes': (3, 4, 6, 3), 'block': 'bottleneck'},
    'resnet101': {'stage_sizes': (3, 4, 23, 3), 'block': 'bottleneck'},
    'resnet152': {'stage_sizes': (3, 8, 36, 3), 'block': 'bottleneck'},
}

kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class ResidualBlock(nn.Module):
    """relu(x + f(x)), f the convolutions of `BLOCKS[block]`, each followed by batch norm.

    Attributes:
      block: 'basic' or 'bottleneck'.
      channels: of the stage; a bottleneck puts out four times as many.
      stride: 1 or 2.
      zero_init_residual: start the last norm's factor at 0, the block at the identity.
      norm: makes a BatchNorm.
      dtype: of the computation.
    """

    block: str
    channels: int
    stride: int
    zero_init_residual: bool
    norm: Callable[..., BatchNorm]
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None) -> Array:  # positional: static for nn.remat
        """Maps [B, H, W, C_in] to [B, H / stride, W / stride, C_out]."""
        layers = BLOCKS[self.block]
        y = x
        for i, (kernel_size, strided, expansion) in enumerate(layers, start=1):
            last = i == len(layers)
            stride = self.stride if strided else 1
            y = conv(self.channels * expansion, kernel_size, stride, self.dtype, name=f'conv{i}')(y)
            scale_init = nn.initializers.zeros if last and self.zero_init_residual else nn.initializers.ones
            y = self.norm(scale_init=scale_init, name=f'bn{i}')(y, train=train, axis_name=axis_name)
            if not last:
                y = nn.relu(y)
        if x.shape != y.shape:
            x = conv(y.shape[-1], 1, self.stride, self.dtype, name='downsample_conv')(x)
            x = self.norm(name='downsample_bn')(x, train=train, axis_name=axis_name)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet (He et al., arXiv:1512.03385) without its classifier, as in torchvision's `models/resnet.py`.

    Modules are named as in torchvision, with `layer1_0` for `layer1.0`, `downsample_conv` for `downsample.0` and
    `downsample_bn` for `downsample.1`. The output of each stage is sown as `layer1` ... in 'intermediates'.

    Attributes:
      stage_sizes: blocks of each stage; each stage but the first halves the resolution and doubles the channels.
      block: 'basic' (ResNet-18, 34) or 'bottleneck' (50, 101, 152).
      width: channels of the stem and of the first stage.
      width_multiplier: factor on all channels; SimCLR's 1x, 2x, 4x.
      stem: 'imagenet', 7x7 stride 2 and a max-pool, or 'cifar', 3x3 stride 1 and none, for images of 8 to 64 px.
      zero_init_residual: start every block at the identity (MoCo v3, SimSiam).
      bn_group_size: examples that share BN statistics, None: the whole global batch; see `BatchNorm`.
      bn_momentum: of the running statistics; new = bn_momentum * old + (1 - bn_momentum) * batch.
      bn_epsilon: added to the variance.
      bn_unbiased: of the running variance: True as in torch, False as in Keras and Haiku.
      remat: recompute each block in the backward pass: less memory, a third more work, the same numbers.
      dtype: of the computation; parameters are float32.
    """

    stage_sizes: tuple[int, ...]
    block: str
    width: int = 64
    width_multiplier: int = 1
    stem: str = 'imagenet'
    zero_init_residual: bool = False
    bn_group_size: int | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased: bool = True
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Encodes images.

        Args:
          x: [B, H, W, 3] images, normalised.
          train: normalise with the statistics of the batch.
          axis_name: the mapped device axis; None: all of the batch is here.

        Returns:
          h: [B, C], the average over all positions, in float32 at least: it is compared with cosines and probed.

        Raises:
          ValueError: an unknown block or stem.
        """
        if self.block not in BLOCKS:
            raise ValueError(f'ResNet block {self.block!r} is unknown; use one of {", ".join(BLOCKS)}')
        if self.stem not in ('imagenet', 'cifar'):
            raise ValueError(f'ResNet stem {self.stem!r} is unknown; use imagenet or cifar')
        norm = partial(
            BatchNorm,
            group_size=self.bn_group_size,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            unbiased=self.bn_unbiased,
            dtype=self.dtype,
        )
        residual_block = nn.remat(ResidualBlock, static_argnums=(2, 3)) if self.remat else ResidualBlock
        width = self.width * self.width_multiplier

        kernel_size, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
        x = conv(width, kernel_size, stride, self.dtype, name='conv1')(x)
        x = nn.relu(norm(name='bn1')(x, train=train, axis_name=axis_name))
        if self.stem == 'imagenet':
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pads with -inf

        for stage, size in enumerate(self.stage_sizes):
            for i in range(size):
                x = residual_block(
                    block=self.block,
                    channels=width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    zero_init_residual=self.zero_init_residual,
                    norm=norm,
                    dtype=self.dtype,
                    name=f'layer{stage + 1}_{i}',
                )(x, train, axis_name)
            self.sow('intermediates', f'layer{stage + 1}', x)
        return x.mean((1, 2), dtype=jnp.promote_types(self.dtype, jnp.float32))


def conv(channels: int, kernel_size: int, stride: int, dtype: Dtype, name: str) -> nn.Conv:
    """A convolution without bias, padded symmetrically by half the kernel, with torchvision's initial values."""
    return nn.Conv(
        channels,
        (kernel_size, kernel_size),
        strides=stride,
        padding=kernel_size // 2,
        use_bias=False,
        kernel_init=kaiming_normal,
        dtype=dtype,
        name=name,
    )


def resnet(name: str, **fields: Any) -> ResNet:
    """The ResNet of that name in `RESNETS`; `fields` override its values."""
    return ResNet(**{**RESNETS[name], **fields})
