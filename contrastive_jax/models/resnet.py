"""ResNets as in torchvision, with the stride in the 3x3 convolution ("v1.5"); selective kernels as in SimCLR v2."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax import rules
from contrastive_jax.models.convolution import conv_general_dilated
from contrastive_jax.models.norm import BatchNorm

# The convolutions of a block: (kernel size, whether it has the block's stride, output channels / stage channels).
BLOCKS: dict[str, tuple[tuple[int, bool, int], ...]] = {
    'basic': ((3, True, 1), (3, False, 1)),
    'bottleneck': ((1, False, 1), (3, True, 1), (1, False, 4)),
}

RESNETS: dict[str, dict[str, Any]] = {
    # 0.3 M parameters, for tests and 8 px digits; this size is not from a paper.
    'resnet_tiny': {'stage_sizes': (1, 1, 1, 1), 'block': 'basic', 'width': 16, 'stem': 'cifar'},
    'resnet18': {'stage_sizes': (2, 2, 2, 2), 'block': 'basic'},
    'resnet34': {'stage_sizes': (3, 4, 6, 3), 'block': 'basic'},
    'resnet50': {'stage_sizes': (3, 4, 6, 3), 'block': 'bottleneck'},
    'resnet101': {'stage_sizes': (3, 4, 23, 3), 'block': 'bottleneck'},
    'resnet152': {'stage_sizes': (3, 8, 36, 3), 'block': 'bottleneck'},
    'resnet200': {'stage_sizes': (3, 24, 36, 3), 'block': 'bottleneck'},
}

# The padding of (3x3 and 7x7 convolutions, max-pooling). With stride 2, TensorFlow's SAME pads more after the image
# than before it, so weights trained with one padding do not fit another.
PADDINGS: dict[str, tuple[str, str]] = {
    'torch': ('symmetric', 'symmetric'),
    'same': ('SAME', 'SAME'),  # Haiku's ResNets, which BYOL uses
    'simclr': ('symmetric', 'SAME'),  # google-research/simclr pads its convolutions explicitly
}

kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class SelectiveKernels(nn.Module):
    """Two 3x3 convolutions and a learned mixture of the two for each channel (Li et al., arXiv:1903.06586).

    The paper uses a 3x3 and a dilated kernel. SimCLR v2, which is followed here, uses two 3x3 kernels, computed as one
    convolution, for speed.

    Attributes:
      channels: the output channels, C.
      stride: 1 or 2.
      ratio: the layer that computes the mixture has max(32, ratio * channels) channels.
      padding: the padding of the convolution, 'symmetric' or 'SAME'.
      norm: builds a `BatchNorm`.
      dtype: the dtype of the computation; parameters are float32.
    """

    channels: int
    stride: int
    ratio: float
    padding: str
    norm: Callable[..., BatchNorm]
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None) -> Array:
        """Maps [B, H, W, C_in] to [B, H / stride, W / stride, C]; batch norm and ReLU are included."""
        x = conv(2 * self.channels, 3, self.stride, self.dtype, name='conv', padding=self.padding, train=train)(x)
        x = nn.relu(self.norm(name='bn')(x, train=train, axis_name=axis_name))
        x = x.reshape(*x.shape[:-1], 2, self.channels)  # [B, H, W, 2, C]
        s = x.sum(-2).mean((1, 2), keepdims=True)  # [B, 1, 1, C], the mean over positions
        s = conv(max(int(self.channels * self.ratio), 32), 1, 1, self.dtype, name='reduce_conv')(s)
        s = nn.relu(self.norm(name='reduce_bn')(s, train=train, axis_name=axis_name))
        mixture = conv(2 * self.channels, 1, 1, self.dtype, name='mix_conv')(s)
        mixture = nn.softmax(mixture.reshape(*s.shape[:-1], 2, self.channels), axis=-2)  # [B, 1, 1, 2, C]
        return (x * mixture).sum(-2)


class ResidualBlock(nn.Module):
    """relu(x + f(x)), where f is the convolutions of `BLOCKS[block]`, each followed by batch norm.

    Attributes:
      block: 'basic' or 'bottleneck'.
      channels: the channels of the stage; a bottleneck block has four times as many outputs.
      stride: 1 or 2.
      zero_init_residual: whether the scale of the last batch norm starts at 0, and so the block as the identity.
      padding: the padding of the 3x3 convolutions, 'symmetric' or 'SAME'.
      sk_ratio: above 0, selective kernels replace the strided convolution, and the shortcut is that of ResNet-D.
      norm: builds a `BatchNorm`.
      dtype: the dtype of the computation; parameters are float32.
    """

    block: str
    channels: int
    stride: int
    zero_init_residual: bool
    padding: str
    sk_ratio: float
    norm: Callable[..., BatchNorm]
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Array, train: bool, axis_name: str | None
    ) -> Array:  # positional, for nn.remat's static_argnums
        """Maps [B, H, W, C_in] to [B, H / stride, W / stride, C_out]."""
        layers = BLOCKS[self.block]
        y = x
        for i, (kernel_size, strided, expansion) in enumerate(layers, start=1):
            last = i == len(layers)
            stride = self.stride if strided else 1
            if strided and self.sk_ratio > 0:
                y = SelectiveKernels(
                    self.channels, stride, self.sk_ratio, self.padding, self.norm, self.dtype, name=f'sk{i}'
                )(y, train, axis_name)
                continue
            channels = self.channels * expansion
            y = conv(channels, kernel_size, stride, self.dtype, f'conv{i}', self.padding, train)(y)
            scale_init = nn.initializers.zeros if last and self.zero_init_residual else nn.initializers.ones
            y = self.norm(scale_init=scale_init, name=f'bn{i}')(y, train=train, axis_name=axis_name)
            if not last:
                y = nn.relu(y)
        if x.shape != y.shape:
            stride = self.stride
            if self.sk_ratio > 0:
                x, stride = average_pool(x, stride), 1
            x = conv(y.shape[-1], 1, stride, self.dtype, name='downsample_conv')(x)
            x = self.norm(name='downsample_bn')(x, train=train, axis_name=axis_name)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet (He et al., arXiv:1512.03385) without its classifier, as in torchvision's `models/resnet.py`.

    Modules are named as in torchvision, with `layer1_0` for `layer1.0`, `downsample_conv` for `downsample.0` and
    `downsample_bn` for `downsample.1`. The output of each stage is sown into 'intermediates' as `layer1`, `layer2`, ...

    Attributes:
      stage_sizes: the number of blocks in each stage; every stage but the first halves the resolution and doubles the
        channels.
      block: 'basic' (ResNet-18 and 34) or 'bottleneck' (deeper ones).
      width: the channels of the stem and of the first stage.
      width_multiplier: a factor on all channels; 1, 2 and 4 in SimCLR.
      input_channels: the number of channels of an image that the network sees, the first ones; None: all. 1 for
        colorization: the lightness of Lab.
      stem: 'imagenet' (a 7x7 convolution with stride 2, then max-pooling) or 'cifar' (a 3x3 convolution with stride 1,
        for images of 8 to 64 px).
      stem_width: the channels of the stem; None: those of the first stage. CMC keeps 64 at every width.
      stem_stride: the stride of the stem's first convolution; None: that of the stem.
      stem_padding: the padding of the stem's first convolution on each side, in pixels; None: half its kernel.
        solo-learn pads its 3x3 stem by 2.
      stem_relu: whether the stem ends with a ReLU; lightly's CIFAR ResNets lose it in their nn.Sequential.
      stem_pool: whether max-pooling follows the stem; None: after the 'imagenet' stem only.
      zero_init_residual: whether every block starts as the identity (MoCo v3, SimSiam, SimCLR).
      padding: 'torch', 'same' (BYOL) or 'simclr'; see `PADDINGS`.
      sk_ratio: above 0, bottleneck blocks have selective kernels (`SelectiveKernels`) and the network is a ResNet-D
        (He et al., arXiv:1812.01187): three 3x3 convolutions replace the 7x7 one, and shortcuts average before they
        project. 0.0625 in SimCLR v2.
      bn_group_size: the number of examples that share BN statistics; None: the global batch. See `BatchNorm`.
      bn_views: how many views follow each other in a batch, each with BN statistics of its own; see `BatchNorm.views`.
      bn_momentum: the momentum of the running statistics, new = bn_momentum * old + (1 - bn_momentum) * batch.
      bn_epsilon: added to the variance.
      bn_unbiased: whether the running variance is unbiased, as in torch, or not, as in Keras and Haiku.
      remat: recompute each block in the backward pass, which saves memory for about a third more work; the results are
        the same.
      dtype: the dtype of the computation; parameters are float32.
    """

    stage_sizes: tuple[int, ...]
    block: str
    width: int = rules.field(64, least=1)
    width_multiplier: int = rules.field(1, least=1)
    input_channels: int | None = rules.field(None, least=1)
    stem: str = 'imagenet'
    stem_width: int | None = rules.field(None, least=1)
    stem_stride: int | None = rules.field(None, least=1)
    stem_padding: int | None = rules.field(None, least=0)
    stem_pool: bool | None = None
    stem_relu: bool = True
    zero_init_residual: bool = False
    padding: str = 'torch'
    sk_ratio: float = 0.0
    bn_group_size: int | None = None
    bn_views: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased: bool = True
    remat: bool = False
    dtype: Dtype = jnp.float32

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Encodes images: h [B, D], the average of `feature_map` over all positions, in float32 or a wider dtype."""
        x = self.feature_map(x, train=train, axis_name=axis_name)
        return x.mean((1, 2), dtype=jnp.promote_types(self.dtype, jnp.float32))

    @nn.compact
    def feature_map(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """The output of the last stage, as a decoder needs it.

        Args:
          x: [B, H, W, C], normalized images.
          train: whether batch norm uses the statistics of the batch; otherwise the running ones.
          axis_name: the mapped device axis; None: the whole batch is on one device.

        Returns:
          [B, h, w, D], in `dtype`.

        Raises:
          ValueError: an unknown block, stem or padding; or selective kernels without bottleneck blocks.
        """
        if self.block not in BLOCKS:
            raise ValueError(f'ResNet block {self.block!r} is unknown; use one of {", ".join(BLOCKS)}')
        if self.stem not in ('imagenet', 'cifar'):
            raise ValueError(f'ResNet stem {self.stem!r} is unknown; use imagenet or cifar')
        if self.padding not in PADDINGS:
            raise ValueError(f'ResNet padding {self.padding!r} is unknown; use one of {", ".join(PADDINGS)}')
        if self.sk_ratio and (self.block != 'bottleneck' or not 0 < self.sk_ratio <= 1):
            raise ValueError(f'ResNet sk_ratio {self.sk_ratio!r} must be 0, or at most 1 with bottleneck blocks')
        norm = partial(
            BatchNorm,
            group_size=self.bn_group_size,
            views=self.bn_views,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            unbiased=self.bn_unbiased,
            dtype=self.dtype,
        )
        residual_block = nn.remat(ResidualBlock, static_argnums=(2, 3)) if self.remat else ResidualBlock
        width = self.width * self.width_multiplier

        padding, pool_padding = PADDINGS[self.padding]
        stem = self.stem_convolutions()
        x = x if self.input_channels is None else x[..., : self.input_channels]
        for i, (channels, kernel_size, stride, edge) in enumerate(stem, start=1):
            x = conv(channels, kernel_size, stride, self.dtype, f'conv{i}', edge, train)(x)
            x = norm(name=f'bn{i}')(x, train=train, axis_name=axis_name)
            x = nn.relu(x) if self.stem_relu or i < len(stem) else x
        if self.stem_pools:
            x = max_pool(x, pool_padding)

        for stage, size in enumerate(self.stage_sizes):
            for i in range(size):
                x = residual_block(
                    block=self.block,
                    channels=width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    zero_init_residual=self.zero_init_residual,
                    padding=padding,
                    sk_ratio=self.sk_ratio,
                    norm=norm,
                    dtype=self.dtype,
                    name=f'layer{stage + 1}_{i}',
                )(x, train, axis_name)
            self.sow('intermediates', f'layer{stage + 1}', x)
        return x

    def stem_convolutions(self) -> list[tuple[int, int, int, str | int]]:
        """The convolutions before the first stage: output channels, kernel size, stride and padding (see `conv`)."""
        stem = self.stem_width or self.width * self.width_multiplier
        first = [(stem, 7, 2)] if self.stem == 'imagenet' else [(stem, 3, 1)]
        if self.stem == 'imagenet' and self.sk_ratio > 0:
            first = [(stem // 2, 3, 2), (stem // 2, 3, 1), (stem, 3, 1)]
        layers: list[tuple[int, int, int, str | int]] = [(*layer, PADDINGS[self.padding][0]) for layer in first]
        channels, kernel_size, stride, padding = layers[0]
        stride = stride if self.stem_stride is None else self.stem_stride
        layers[0] = (channels, kernel_size, stride, padding if self.stem_padding is None else self.stem_padding)
        return layers

    @property
    def stem_pools(self) -> bool:
        """Whether max-pooling follows the stem."""
        return self.stem == 'imagenet' if self.stem_pool is None else self.stem_pool


def conv(
    channels: int,
    kernel_size: int,
    stride: int,
    dtype: Dtype,
    name: str,
    padding: str | int = 'symmetric',
    train: bool = False,
) -> nn.Conv:
    """A convolution without bias, with torchvision's initialization.

    Args:
      channels: the output channels.
      kernel_size: the height and width of the kernel, odd.
      stride: 1 or 2.
      dtype: the dtype of the computation.
      name: the name of the module.
      padding: 'symmetric' (half the kernel on each side), 'SAME', or the number of pixels on each side.
      train: whether gradients will be computed, see `models.convolution`.
    """
    return nn.Conv(
        channels,
        (kernel_size, kernel_size),
        strides=stride,
        padding=kernel_size // 2 if padding == 'symmetric' else padding,
        use_bias=False,
        kernel_init=kaiming_normal,
        dtype=dtype,
        name=name,
        conv_general_dilated=conv_general_dilated if train else None,
    )


def max_pool(x: Array, padding: str) -> Array:
    """The 3x3 max-pooling of the stem with stride 2; `padding`, 'symmetric' or 'SAME', is with -inf."""
    if padding == 'symmetric':
        x, padding = pad(x, (1, 1), -jnp.inf), 'VALID'
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding)


def average_pool(x: Array, stride: int) -> Array:
    """The 2x2 average pooling of ResNet-D's shortcuts, as SimCLR v2 computes it in TensorFlow.

    With stride 1, averages at the last row and column are over the pixels inside the image. With stride 2, an odd size
    is padded with zeros, which count in the average.
    """
    if stride == 1:
        return nn.avg_pool(x, window_shape=(2, 2), strides=(1, 1), padding='SAME', count_include_pad=False)
    return nn.avg_pool(pad(x, (0, 1), 0), window_shape=(2, 2), strides=(stride, stride))


def pad(x: Array, edges: tuple[int, int], value: float) -> Array:
    """Pads rows and columns with `edges` = (before, after).

    It is separate from the pooling because jax2onnx ignores the padding of a pooling; XLA fuses the two.
    """
    return jnp.pad(x, ((0, 0), edges, edges, (0, 0)), constant_values=value)


def resnet(name: str, **fields: Any) -> ResNet:
    """Builds the ResNet with this name in `RESNETS`; `fields` override its values."""
    return ResNet(**{**RESNETS[name], **fields})
