"""The encoder of CPC: an image is cut into overlapping patches, and a ResNet encodes each patch separately."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax import rules
from contrastive_jax.models.resnet import conv

# For each stage: the number of blocks, the channels inside a block, and the output channels.
CPC_ENCODERS: dict[str, dict[str, Any]] = {
    # v1: the first three stages of ResNet-v2-101, without normalization.
    'cpc_resnet101': {
        'stage_sizes': (3, 4, 23), 'bottlenecks': (64, 128, 256), 'channels': (256, 512, 1024), 'norm': 'none',
    },
    # v2: the third stage is deeper, with twice the channels inside its blocks and four times the output channels.
    'cpc_resnet161': {
        'stage_sizes': (3, 4, 46), 'bottlenecks': (64, 128, 512), 'channels': (256, 512, 4096),
    },
    # v2's smaller encoder has the 24 million parameters of a whole ResNet-50, so all four stages.
    'cpc_resnet50': {
        'stage_sizes': (3, 4, 6, 3), 'bottlenecks': (64, 128, 256, 512), 'channels': (256, 512, 1024, 2048),
    },
    # For 32 px images, and for tests and 8 px digits; these two sizes are not from a paper.
    'cpc_small': {'stage_sizes': (2, 2, 2), 'bottlenecks': (64, 128, 256), 'channels': (256, 512, 1024)},
    'cpc_tiny': {'stage_sizes': (1, 1, 1), 'bottlenecks': (16, 32, 64), 'channels': (64, 128, 256)},
}  # fmt: skip


def cut_patches(images: Array, size: int, stride: int) -> Array:
    """Cuts images into a grid of overlapping square patches.

    Args:
      images: [B, H, W, C].
      size: p, the height and width of a patch, in pixels.
      stride: the distance from one patch to the next, in pixels.

    Returns:
      [B, rows, columns, p, p, C].

    Raises:
      ValueError: the patches do not fill the image exactly.
    """
    check_patches(images.shape[1:3], size, stride)
    rows, columns = ((length - size) // stride + 1 for length in images.shape[1:3])
    x = jnp.stack([images[:, i * stride : i * stride + size] for i in range(rows)], axis=1)  # [B, R, p, W, C]
    return jnp.stack([x[..., j * stride : j * stride + size, :] for j in range(columns)], axis=2)


def check_patches(image: tuple[int, ...], size: int, stride: int) -> None:
    """Raises ValueError if patches of this size and stride do not fill the `image` (height, width) exactly."""
    for length in image:
        if rest := (length - size) % stride if length >= size else size - length:
            low = length - rest
            use = f'{low} or {low + stride}' if length >= size else f'{size} or {size + stride}'
            raise ValueError(f'image size {length} is not filled by patches of {size} at stride {stride}; use {use}')


class PreactivationBlock(nn.Module):
    """x + f(x), where f is three times norm, ReLU and convolution (He et al., arXiv:1603.05027).

    Attributes:
      bottleneck: the channels of the first two convolutions.
      channels: the output channels.
      stride: the stride of the 3x3 convolution, 1 or 2.
      norm: builds a normalization layer; None: there is none.
      dtype: the dtype of the computation; parameters are float32.
    """

    bottleneck: int
    channels: int
    stride: int
    norm: Callable[..., nn.LayerNorm] | None
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [N, H, W, C_in] to [N, H / stride, W / stride, channels]."""

        def activate(y: Array, name: str) -> Array:
            return nn.relu(y if self.norm is None else self.norm(name=name)(y))

        y = activate(x, 'norm1')
        if x.shape[-1] != self.channels or self.stride > 1:
            x = conv(self.channels, 1, self.stride, self.dtype, name='downsample_conv')(y)
        y = conv(self.bottleneck, 1, 1, self.dtype, name='conv1')(y)
        y = conv(self.bottleneck, 3, self.stride, self.dtype, name='conv2')(activate(y, 'norm2'))
        y = conv(self.channels, 1, 1, self.dtype, name='conv3')(activate(y, 'norm3'))
        if self.norm is None:
            # Without normalization the variance would double with each block, so each block starts as the identity.
            y *= self.param('gain', nn.initializers.zeros, ()).astype(self.dtype)
        return x + y


class CPCEncoder(nn.Module):
    """A ResNet v2 that encodes patches. It has no batch norm, which would carry information between patches.

    Attributes:
      stage_sizes: the number of blocks in each stage; every stage but the first halves the resolution.
      bottlenecks: the channels inside the blocks, for each stage; entries beyond the number of stages are ignored.
      channels: the output channels, for each stage; those of the last stage are D.
      patch_size: p, the height and width of a patch, in pixels.
      patch_stride: the distance from one patch to the next, in pixels; patches overlap if it is below `patch_size`.
      stem: 'imagenet' (a 7x7 convolution with stride 2, then max-pooling) or 'cifar' (a 3x3 convolution with stride 1,
        for patches below 32 px).
      norm: 'layer', over all positions and channels of one patch, or 'none'.
      remat: recompute each block in the backward pass, which saves memory for about a third more work; the results are
        the same.
      dtype: the dtype of the computation; parameters are float32.
    """

    stage_sizes: tuple[int, ...]
    bottlenecks: tuple[int, ...]
    channels: tuple[int, ...]
    patch_size: int = rules.field(80, least=1)
    patch_stride: int = rules.field(36, least=1)
    stem: str = 'imagenet'
    norm: str = 'layer'
    remat: bool = False
    dtype: Dtype = jnp.float32

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps images or patches, as in `grid`, to h [B, D], the mean over all patches; evaluation uses h."""
        return self.grid(x, train=train, axis_name=axis_name).mean((1, 2))

    @nn.compact
    def grid(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Encodes each patch separately.

        Args:
          x: normalized images [B, H, W, channels], or their patches [B, R, C, p, p, channels].
          train: has no effect, because the encoder behaves the same in training and evaluation.
          axis_name: has no effect, because nothing is shared between examples.

        Returns:
          z [B, R, C, D], the average over the positions in each patch, in float32 or a wider dtype.

        Raises:
          ValueError: an unknown stem or norm, or patches that do not fill the image exactly.
        """
        del train, axis_name
        if self.stem not in ('imagenet', 'cifar'):
            raise ValueError(f'CPC stem {self.stem!r} is unknown; use imagenet or cifar')
        if self.norm not in ('layer', 'none'):
            raise ValueError(f'CPC norm {self.norm!r} is unknown; use layer or none')
        norm = None
        if self.norm == 'layer':
            norm = partial(nn.LayerNorm, reduction_axes=(-3, -2, -1), feature_axes=-1, dtype=self.dtype)
        block = nn.remat(PreactivationBlock) if self.remat else PreactivationBlock

        if x.ndim == 4:
            x = cut_patches(x, self.patch_size, self.patch_stride)
        grid = x.shape[:3]
        x = x.reshape(-1, *x.shape[3:])  # [N, p, p, 3], N = B * R * C patches
        kernel_size, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
        x = conv(self.channels[0] // 4, kernel_size, stride, self.dtype, name='conv1')(x)
        if self.stem == 'imagenet':
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pads with -inf
        stages = zip(self.stage_sizes, self.bottlenecks, self.channels, strict=False)  # stops with `stage_sizes`
        for stage, (size, bottleneck, channels) in enumerate(stages):
            for i in range(size):
                x = block(
                    bottleneck=bottleneck,
                    channels=channels,
                    stride=2 if stage > 0 and i == 0 else 1,
                    norm=norm,
                    dtype=self.dtype,
                    name=f'layer{stage + 1}_{i}',
                )(x)
        if norm is not None:
            x = norm(name='norm')(x)
        x = nn.relu(x).mean((1, 2), dtype=jnp.promote_types(self.dtype, jnp.float32))
        return x.reshape(*grid, -1)


def cpc(name: str, **fields: Any) -> CPCEncoder:
    """Builds the encoder with this name in `CPC_ENCODERS`; `fields` override its values."""
    return CPCEncoder(**{**CPC_ENCODERS[name], **fields})
