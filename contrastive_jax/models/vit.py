"""Vision transformers as MoCo v3 trains them: fixed sin-cos positions and, if wanted, a convolutional stem."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from contrastive_jax.models.heads import torch_uniform, uniform
from contrastive_jax.models.norm import BatchNorm

Array = jax.Array

VITS: dict[str, dict[str, Any]] = {
    'vit_tiny': {'width': 192, 'depth': 12, 'num_heads': 3},
    # MoCo v3 gives 12 heads to small and base alike; DINO, DeiT and timm give 6 to small. Parameters do not tell.
    'vit_small': {'width': 384, 'depth': 12, 'num_heads': 12},
    'vit_base': {'width': 768, 'depth': 12, 'num_heads': 12},
    'vit_large': {'width': 1024, 'depth': 24, 'num_heads': 16},
    # The convolutional stem costs about a block, so there is one block less.
    'vit_conv_small': {'width': 384, 'depth': 11, 'num_heads': 12, 'stem': 'conv'},
    'vit_conv_base': {'width': 768, 'depth': 11, 'num_heads': 12, 'stem': 'conv'},
}

CONV_STEM_STRIDE = 16


def sincos_position(height: int, width: int, dim: int, temperature: float = 10_000.0) -> np.ndarray:
    """The fixed 2-D position embedding of MoCo v3 (`vits.py`), with a row of zeros for the cls token.

    Half of the channels encode one coordinate, half the other: sin and cos of coordinate / temperature^(i / (dim/4)).
    The authors' grid is built with 'ij' indexing of (width, height): patch n of the row-major sequence gets the
    coordinates (n // height, n % height). On square images that is (row, column); on others it does not line up
    with rows. We keep it, as their checkpoints do.

    Args:
      height: patches in a column.
      width: patches in a row.
      dim: channels, a multiple of 4.
      temperature: of the wave lengths.

    Returns:
      float64[1 + height * width, dim].

    Raises:
      ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f'ViT width {dim} must be a multiple of 4 for sin-cos positions; use {dim - dim % 4 + 4}')
    omega = temperature ** -(np.arange(dim // 4) / (dim // 4))
    first, second = np.meshgrid(np.arange(width), np.arange(height), indexing='ij')
    angle_1, angle_2 = first.reshape(-1, 1) * omega, second.reshape(-1, 1) * omega
    position = np.concatenate([np.sin(angle_1), np.cos(angle_1), np.sin(angle_2), np.cos(angle_2)], axis=1)
    return np.concatenate([np.zeros((1, dim)), position])


class PatchEmbed(nn.Module):
    """Cuts images into patches and maps each linearly; 'proj' has a kernel [p, p, C, width] like a convolution's.

    Attributes:
      patch_size: p, in pixels.
      width: channels of a token.
      dtype: of the computation.
    """

    patch_size: int
    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to tokens [B, H/p, W/p, width]."""
        p = self.patch_size
        b, h, w, c = x.shape
        patches = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)  # [B, H/p, W/p, p, p, C]
        # Xavier over the flattened kernel is the authors' bound √(6 / (3p² + width)).
        return nn.DenseGeneral(
            self.width, axis=(-3, -2, -1), kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name='proj'
        )(patches)


class ConvStem(nn.Module):
    """Four 3x3 convolutions of stride 2 with batch norm and ReLU, then 1x1 (Xiao et al., arXiv:2106.14881).

    Attributes:
      width: channels of a token; the convolutions have 1/8, 1/4, 1/2 and all of it.
      bn_group_size: examples that share BN statistics; see `BatchNorm`.
      bn_momentum: of the running statistics.
      bn_epsilon: added to the variance.
      dtype: of the computation.
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


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      num_heads: of width / num_heads channels each.
      qkv_bias: a bias on queries, keys and values.
      queries: only the first so many tokens ask, all answer; None: all ask.
      dtype: of the computation; the softmax runs in float32 at least.
    """

    num_heads: int
    qkv_bias: bool
    queries: int | None
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps tokens [B, N, D] to [B, queries, D]."""
        b, n, d = x.shape
        # Xavier for each of q, k and v on its own, [D, D], not for the joint [D, 3D].
        qkv_init = uniform((6 / (d + d)) ** 0.5)
        qkv = nn.Dense(3 * d, use_bias=self.qkv_bias, kernel_init=qkv_init, dtype=self.dtype, name='qkv')(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(b, n, 3, self.num_heads, d // self.num_heads), 2, 0
        )  # [B, N, heads, D/heads]
        # Written out because jax.nn.dot_product_attention takes its softmax in float32 even when all else is float64.
        logits = jnp.einsum('bqhd,bkhd->bhqk', q[:, : self.queries], k)
        logits = logits.astype(jnp.promote_types(self.dtype, jnp.float32)) * (d // self.num_heads) ** -0.5
        weights = nn.softmax(logits).astype(self.dtype)
        x = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(b, -1, d)
        return nn.Dense(d, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name='proj')(x)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: x + attention(LN(x)), then x + MLP(LN(x)) with exact GELU.

    Attributes:
      num_heads: of the attention.
      mlp_ratio: hidden channels of the MLP / channels of a token.
      qkv_bias: a bias on queries, keys and values.
      layer_norm_epsilon: added to the variance.
      queries: put out only the first so many tokens; None: all.
      dtype: of the computation.
    """

    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    layer_norm_epsilon: float
    queries: int | None
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps tokens [B, N, D] to [B, queries, D]."""
        d = x.shape[-1]
        xavier = nn.initializers.xavier_uniform()
        y = nn.LayerNorm(self.layer_norm_epsilon, dtype=self.dtype, name='norm1')(x)
        y = Attention(self.num_heads, self.qkv_bias, self.queries, self.dtype, name='attn')(y)
        x = x[:, : self.queries] + y
        y = nn.LayerNorm(self.layer_norm_epsilon, dtype=self.dtype, name='norm2')(x)
        y = nn.Dense(int(d * self.mlp_ratio), kernel_init=xavier, dtype=self.dtype, name='mlp_fc1')(y)
        y = nn.gelu(y, approximate=False)
        return x + nn.Dense(d, kernel_init=xavier, dtype=self.dtype, name='mlp_fc2')(y)


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al., arXiv:2010.11929) as in MoCo v3 (arXiv:2104.02057), without a classifier.

    Modules are named as in timm, with `blocks_0` for `blocks.0` and `mlp_fc1` for `mlp.fc1`. Positions are computed
    from the shape of the images, so crops of any divisible size are legal.

    Attributes:
      patch_size: in pixels; a convolutional stem fixes it to 16.
      width: channels of a token, D.
      depth: number of blocks.
      num_heads: of the attention; must divide the width.
      mlp_ratio: hidden channels of the MLP / width.
      qkv_bias: a bias on queries, keys and values.
      layer_norm_epsilon: added to the variance.
      stem: 'patch' or 'conv'.
      bn_group_size: of the convolutional stem: examples that share BN statistics; see `BatchNorm`.
      bn_momentum: of the stem's running statistics.
      bn_epsilon: added to the variance.
      remat: recompute each block in the backward pass: less memory, a third more work, the same numbers.
      dtype: of the computation; parameters are float32.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_norm_epsilon: float = 1e-6
    stem: str = 'patch'
    bn_group_size: int | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Encodes images.

        Args:
          x: [B, H, W, 3] images, normalised; H and W are multiples of the patch size.
          train: normalise with the statistics of the batch (convolutional stem only).
          axis_name: the mapped device axis; None: all of the batch is here.

        Returns:
          h: [B, D], the cls token after the final LayerNorm, in float32 at least.

        Raises:
          ValueError: sizes that do not divide, or an unknown stem.
        """
        self.check(x.shape)
        if self.stem == 'patch':
            x = PatchEmbed(self.patch_size, self.width, self.dtype, name='patch_embed')(x)
        else:
            x = ConvStem(
                self.width, self.bn_group_size, self.bn_momentum, self.bn_epsilon, self.dtype, name='patch_embed'
            )(x, train=train, axis_name=axis_name)
        b, height, width, d = x.shape
        cls_token = self.param('cls_token', nn.initializers.normal(1e-6), (1, 1, d), jnp.float32)
        cls_token = jnp.broadcast_to(cls_token.astype(self.dtype), (b, 1, d))
        position = jnp.asarray(sincos_position(height, width, d), self.dtype)
        x = jnp.concatenate([cls_token, x.reshape(b, -1, d)], axis=1) + position  # [B, 1 + N, D]

        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        for i in range(self.depth):
            x = block(
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                qkv_bias=self.qkv_bias,
                layer_norm_epsilon=self.layer_norm_epsilon,
                # Only the cls token is wanted: the last block computes nothing else, 6 % less work in 12 blocks.
                queries=1 if i == self.depth - 1 else None,
                dtype=self.dtype,
                name=f'blocks_{i}',
            )(x)
        h = nn.LayerNorm(self.layer_norm_epsilon, dtype=self.dtype, name='norm')(x[:, 0])
        return h.astype(jnp.promote_types(self.dtype, jnp.float32))

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for sizes that do not fit each other."""
        p = self.patch_size
        if self.stem not in ('patch', 'conv'):
            raise ValueError(f'ViT stem {self.stem!r} is unknown; use patch or conv')
        if self.stem == 'conv' and (p != CONV_STEM_STRIDE or self.width % 8):
            raise ValueError(
                f'ViT stem conv with patch_size {p}, width {self.width}: it needs patch_size {CONV_STEM_STRIDE} and a '
                'width that is a multiple of 8'
            )
        if self.width % self.num_heads:
            raise ValueError(f'ViT width {self.width} % num_heads {self.num_heads} = {self.width % self.num_heads}')
        for size in shape[1:3]:
            if size % p:
                low = size - size % p
                use = f'{low} or {low + p}' if low else f'{p}'
                raise ValueError(f'image {size} % patch {p} = {size % p}; use {use}')


def vit(name: str, patch_size: int = 16, **fields: Any) -> VisionTransformer:
    """The ViT of that name in `VITS`; `fields` override its values."""
    return VisionTransformer(**{**VITS[name], 'patch_size': patch_size, **fields})
