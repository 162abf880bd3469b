"""The encoder of CPC: an image is cut into overlapping patches, and a ResNet sees each of them alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax import rules
from contrastive_jax.models.resnet import conv

# The stages of a trunk: blocks, channels of a bottleneck, channels that the stage puts out.
CPC_ENCODERS: dict[str, dict[str, Any]] = {
    # v1: the first three stages of ResNet-v2-101; no norm at all.
    'cpc_resnet101': {
        'stage_sizes': (3, 4, 23), 'bottlenecks': (64, 128, 256), 'channels': (256, 512, 1024), 'norm': 'none',
    },
    # v2: the third stage deeper, its bottlenecks twice and its channels four times as wide.
    'cpc_resnet161': {
        'stage_sizes': (3, 4, 46), 'bottlenecks': (64, 128, 512), 'channels': (256, 512, 4096),
    },
    # v2's smaller one has the 24 million parameters of a whole ResNet-50: all four stages.
    'cpc_resnet50': {
        'stage_sizes': (3, 4, 6, 3), 'bottlenecks': (64, 128, 256, 512), 'channels': (256, 512, 1024, 2048),
    },
    # For 32 px images, and for tests and 8 px digits; our own sizes, from no paper.
    'cpc_small': {'stage_sizes': (2, 2, 2), 'bottlenecks': (64, 128, 256), 'channels': (256, 512, 1024)},
    'cpc_tiny': {'stage_sizes': (1, 1, 1), 'bottlenecks': (16, 32, 64), 'channels': (64, 128, 256)},
}  # fmt: skip


def cut_patches(images: Array, size: int, stride: int) -> Array:
    """Overlapping square patches in their grid.

    Args:
      images: [B, H, W, C].
      size: p, height and width of a patch, in pixels.
      stride: pixels from one patch to the next.

    Returns:
      [B, R, C', p, p, C].

    Raises:
      ValueError: patches do not fill the image.
    """
    check_patches(images.shape[1:3], size, stride)
    rows, columns = ((length - size) // stride + 1 for length in images.shape[1:3])
    x = jnp.stack([images[:, i * stride : i * stride + size] for i in range(rows)], axis=1)  # [B, R, p, W, C]
    return jnp.stack([x[..., j * stride : j * stride + size, :] for j in range(columns)], axis=2)


def check_patches(image: tuple[int, ...], size: int, stride: int) -> None:
    """Raises ValueError where patches do not fill an image of so many pixels."""
    for length in image:
        if rest := (length - size) % stride if length >= size else size - length:
            low = length - rest
            use = f'{low} or {low + stride}' if length >= size else f'{size} or {size + stride}'
            raise ValueError(f'image {length} is not filled by patches of {size} every {stride} pixels; use {use}')


class PreactivationBlock(nn.Module):
    """x + f(x), f = three times norm, ReLU, convolution (He et al., arXiv 1603.05027).

    Attributes:
      bottleneck: channels of the first two convolutions.
      channels: that the block puts out.
      stride: 1 or 2, of the 3x3 convolution.
      norm: makes a norm, or None.
      dtype: of the computation.
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
            # Without a norm, the variance would double with each block: start at the identity instead.
            y *= self.param('gain', nn.initializers.zeros, ()).astype(self.dtype)
        return x + y


class CPCEncoder(nn.Module):
    """ResNet v2 on patches, without batch norm, which would carry what one patch holds to the others.

    Attributes:
      stage_sizes: blocks of each stage, of which there are as many; each but the first halves the resolution.
      bottlenecks: channels inside the blocks of each stage.
      channels: that each stage puts out; the last is D.
      patch_size: p, in pixels.
      patch_stride: from one patch to the next; patches overlap.
      stem: 'imagenet', 7x7 stride 2 and a max-pool, or 'cifar', 3x3 stride 1 and none, for patches below 32 px.
      norm: 'layer', over all that one patch has in a layer, or 'none'.
      remat: recompute each block in the backward pass: less memory, a third more work, the same numbers.
      dtype: of the computation; parameters are float32.
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
        """h [B, D] of images or patches as in `grid`: the mean over all patches, which is what is evaluated."""
        return self.grid(x, train=train, axis_name=axis_name).mean((1, 2))

    @nn.compact
    def grid(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Encodes patch by patch.

        Args:
          x: [B, H, W, 3] images, normalised, or patches of them that were cut already, [B, R, C, p, p, 3].
          train: without effect: nothing here depends on it, nor on the devices.
          axis_name: likewise.

        Returns:
          z: [B, R, C, D], the average over the positions in each patch, in float32 at least.

        Raises:
          ValueError: an unknown stem or norm, patches that do not fill the image.
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
        x = x.reshape(-1, *x.shape[3:])  # [N, p, p, 3], every patch by itself
        kernel_size, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
        x = conv(self.channels[0] // 4, kernel_size, stride, self.dtype, name='conv1')(x)
        if self.stem == 'imagenet':
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pads with -inf
        stages = zip(self.stage_sizes, self.bottlenecks, self.channels, strict=False)  # as many as have a size
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
    """The encoder of that name in `CPC_ENCODERS`; `fields` override its values."""
    return CPCEncoder(**{**CPC_ENCODERS[name], **fields})
