"""Vision transformers of MoCo v3 and DINO: sin-cos or learned positions, linear patches or a convolutional stem."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax import rules
from contrastive_jax.distributed import collectives
from contrastive_jax.models.heads import INITS, uniform
from contrastive_jax.models.patch_embed import CONV_STEM_STRIDE, ConvStem, PatchEmbed
from contrastive_jax.models.positions import resize_positions, sincos_position

DINO = {'position': 'learned', 'kernel_init': 'trunc_normal'}

VITS: dict[str, dict[str, Any]] = {
    'vit_tiny': {'width': 192, 'depth': 12, 'num_heads': 3},
    # MoCo v3's small has 12 heads; that of DINO, DeiT and timm has 6. The shapes of the parameters are the same.
    'vit_small': {'width': 384, 'depth': 12, 'num_heads': 12},
    'vit_base': {'width': 768, 'depth': 12, 'num_heads': 12},
    'vit_large': {'width': 1024, 'depth': 24, 'num_heads': 16},
    # The convolutional stem costs about as much as a block, so there is one block less.
    'vit_conv_small': {'width': 384, 'depth': 11, 'num_heads': 12, 'stem': 'conv'},
    'vit_conv_base': {'width': 768, 'depth': 11, 'num_heads': 12, 'stem': 'conv'},
    'dino_tiny': {'width': 192, 'depth': 12, 'num_heads': 3, **DINO},
    'dino_small': {'width': 384, 'depth': 12, 'num_heads': 6, **DINO},
    'dino_base': {'width': 768, 'depth': 12, 'num_heads': 12, **DINO},
}

POSITIONS = ('sincos', 'learned')
KERNEL_INITS = ('xavier', 'trunc_normal')


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      num_heads: the number of heads, of D / num_heads channels each.
      qkv_bias: whether queries, keys and values have a bias.
      queries: the number of tokens, from the first, whose outputs are computed; None: all.
      kernel_init: the initializer of the kernels, 'xavier' or 'trunc_normal'.
      dtype: the dtype of the computation; the softmax is in float32 or a wider dtype.
    """

    num_heads: int
    qkv_bias: bool
    queries: int | None
    kernel_init: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps tokens [B, N, D] to outputs [B, queries, D] and attention weights [B, heads, queries, N]."""
        b, n, d = x.shape
        init = _initializer(self.kernel_init)
        # Xavier for q, k and v separately, each [D, D], not for the joint kernel [D, 3D].
        qkv_init = uniform((6 / (d + d)) ** 0.5) if self.kernel_init == 'xavier' else init
        qkv = nn.Dense(3 * d, use_bias=self.qkv_bias, kernel_init=qkv_init, dtype=self.dtype, name='qkv')(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(b, n, 3, self.num_heads, d // self.num_heads), 2, 0
        )  # [B, N, heads, D/heads]
        # Not jax.nn.dot_product_attention, whose softmax is in float32 even if everything else is in float64.
        logits = jnp.einsum('bqhd,bkhd->bhqk', q[:, : self.queries], k)
        logits = logits.astype(jnp.promote_types(self.dtype, jnp.float32)) * (d // self.num_heads) ** -0.5
        weights = nn.softmax(logits).astype(self.dtype)
        x = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(b, -1, d)
        return nn.Dense(d, kernel_init=init, dtype=self.dtype, name='proj')(x), weights


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: x + attention(LN(x)), then x + MLP(LN(x)) with exact GELU.

    Attributes:
      num_heads: the number of attention heads.
      mlp_ratio: hidden channels of the MLP / channels of a token.
      qkv_bias: whether queries, keys and values have a bias.
      layer_norm_epsilon: added to the variance.
      queries: the number of tokens, from the first, that are computed; None: all.
      kernel_init: the initializer of the kernels, 'xavier' or 'trunc_normal'.
      dtype: the dtype of the computation; parameters are float32.
    """

    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    layer_norm_epsilon: float
    queries: int | None
    kernel_init: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, kept: Array | None = None) -> tuple[Array, Array]:
        """Applies the block.

        Args:
          x: [B, N, D] tokens.
          kept: [B, 2] factors of the two branches, for drop path; None: 1.

        Returns:
          Tokens [B, queries, D] and their attention weights over all tokens, [B, heads, queries, N].
        """
        d = x.shape[-1]
        init = _initializer(self.kernel_init)
        y = nn.LayerNorm(self.layer_norm_epsilon, dtype=self.dtype, name='norm1')(x)
        y, attention = Attention(
            self.num_heads, self.qkv_bias, self.queries, self.kernel_init, self.dtype, name='attn'
        )(y)
        x = x[:, : self.queries] + (y if kept is None else y * kept[:, :1, None])
        y = nn.LayerNorm(self.layer_norm_epsilon, dtype=self.dtype, name='norm2')(x)
        y = nn.Dense(int(d * self.mlp_ratio), kernel_init=init, dtype=self.dtype, name='mlp_fc1')(y)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(d, kernel_init=init, dtype=self.dtype, name='mlp_fc2')(y)
        return x + (y if kept is None else y * kept[:, 1:, None]), attention


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al., arXiv:2010.11929) as in MoCo v3 (arXiv:2104.02057) and DINO (arXiv:2104.14294).

    It has no classifier. Modules are named as in timm, with `blocks_0` for `blocks.0` and `mlp_fc1` for `mlp.fc1`. The
    position embedding follows the shape of the images, so they may have any size that is a multiple of the patch size.

    Attributes:
      patch_size: the height and width of a patch, in pixels; with the convolutional stem it must be 16.
      width: D, the channels of a token.
      depth: the number of blocks.
      num_heads: the number of attention heads; it must divide the width.
      mlp_ratio: hidden channels of the MLP / width.
      qkv_bias: whether queries, keys and values have a bias.
      layer_norm_epsilon: added to the variance of each LayerNorm.
      stem: 'patch' (`PatchEmbed`) or 'conv' (`ConvStem`).
      position: 'sincos' (fixed), or 'learned' on the grid of the square images with which the parameters are
        initialized, and interpolated for images of other sizes.
      kernel_init: the initializer of the linear layers, 'xavier' as in MoCo v3 or 'trunc_normal' as in DINO.
      drop_path: the probability that a branch of the last block is dropped, drawn for each image; it grows linearly
        from 0 in the first block. Nothing is dropped without the rng stream 'drop_path', e.g. for a teacher.
      bn_group_size: the number of examples that share BN statistics in the convolutional stem; see `BatchNorm`.
      bn_momentum: the momentum of the stem's running statistics.
      bn_epsilon: added to the variance of the stem's batch norm.
      remat: recompute each block in the backward pass, which saves memory for about a third more work; the results are
        the same.
      dtype: the dtype of the computation; parameters are float32.
    """

    patch_size: int = rules.field(least=1)
    width: int = rules.field(least=1)
    depth: int = rules.field(least=1)
    num_heads: int = rules.field(least=1)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_norm_epsilon: float = 1e-6
    stem: str = 'patch'
    position: str = 'sincos'
    kernel_init: str = 'xavier'
    drop_path: float = 0.0
    bn_group_size: int | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    remat: bool = False
    dtype: Dtype = jnp.float32

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Encodes images.

        Args:
          x: [B, H, W, C], normalized images; H and W are multiples of the patch size.
          train: whether the batch norm of a convolutional stem uses the statistics of the batch; otherwise the running
            ones.
          axis_name: the mapped device axis; None: the whole batch is on one device.

        Returns:
          h [B, D], the class token after the final LayerNorm, in float32 or a wider dtype.

        Raises:
          ValueError: sizes that do not fit each other, or an unknown stem, position or kernel_init.
        """
        # The last block computes only the class token, which saves 6 % of the work in 12 blocks.
        (tokens,), _ = self.blocks(x, 1, queries=1, train=train, axis_name=axis_name)
        return tokens[:, 0]

    def intermediate_layers(self, x: Array, count: int) -> list[Array]:
        """The outputs of the last `count` blocks in evaluation mode: all tokens [B, 1 + N, D], after the LayerNorm."""
        return self.blocks(x, count, queries=None, train=False, axis_name=None)[0]

    def last_attention(self, x: Array) -> Array:
        """The attention weights of the last block in evaluation mode: [B, heads, 1 + N, 1 + N], rows sum to 1."""
        return self.blocks(x, 1, queries=None, train=False, axis_name=None)[1]

    @nn.compact
    def blocks(
        self, x: Array, count: int, *, queries: int | None, train: bool, axis_name: str | None
    ) -> tuple[list[Array], Array]:
        """Applies the whole network, for `__call__` and the other methods.

        Args:
          x: [B, H, W, C], normalized images.
          count: the number of last blocks whose tokens are returned.
          queries: the number of tokens, from the first, that the last block computes; None: all.
          train, axis_name: as in `__call__`.

        Returns:
          The tokens of each of these blocks after the final LayerNorm, in float32 or a wider dtype, and the attention
          weights of the last block.
        """
        self.check(x.shape)
        if self.stem == 'patch':
            x = PatchEmbed(self.patch_size, self.width, self.kernel_init, self.dtype, name='patch_embed')(x)
        else:
            x = ConvStem(
                self.width, self.bn_group_size, self.bn_momentum, self.bn_epsilon, self.dtype, name='patch_embed'
            )(x, train=train, axis_name=axis_name)
        b, height, width, d = x.shape
        token_init = nn.initializers.normal(1e-6) if self.kernel_init == 'xavier' else INITS['trunc_normal']
        cls_token = self.param('cls_token', token_init, (1, 1, d), jnp.float32)
        cls_token = jnp.broadcast_to(cls_token.astype(self.dtype), (b, 1, d))
        x = jnp.concatenate([cls_token, x.reshape(b, -1, d)], axis=1) + self.positions(height, width)  # [B, 1 + N, D]

        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        norm = nn.LayerNorm(self.layer_norm_epsilon, dtype=self.dtype, name='norm')
        kept, layers = self.kept_paths(b, axis_name), []
        for i in range(self.depth):
            x, attention = block(
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                qkv_bias=self.qkv_bias,
                layer_norm_epsilon=self.layer_norm_epsilon,
                queries=queries if i == self.depth - 1 else None,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f'blocks_{i}',
            )(x, None if kept is None else kept[:, i])
            if i >= self.depth - count:
                layers.append(norm(x).astype(jnp.promote_types(self.dtype, jnp.float32)))
        return layers, attention

    def positions(self, height: int, width: int) -> Array:
        """The position embedding [1 + height * width, D] of a grid of patches; the first row is the class token's."""
        if self.position == 'sincos':
            return jnp.asarray(sincos_position(height, width, self.width), self.dtype)
        if self.is_initializing() and height != width:
            raise ValueError(
                f'ViT positions are learned on a square grid, and this one is {height}x{width}; initialize the '
                'parameters with square images'
            )
        shape = (1, 1 + height * width, self.width)
        if self.has_variable('params', 'pos_embed'):
            shape = self.get_variable('params', 'pos_embed').shape  # of the images at initialization
        position = self.param('pos_embed', INITS['trunc_normal'], shape, jnp.float32)[0]
        return resize_positions(position, height, width).astype(self.dtype)

    def kept_paths(self, b: int, axis_name: str | None) -> Array | None:
        """Drop path (Huang et al., arXiv:1603.09382): factors [b, depth, 2] with mean 1; None if nothing is dropped.

        They are drawn by the position in the global batch, so they do not depend on the number of devices.
        """
        if not self.drop_path or not self.has_rng('drop_path'):
            return None
        keys = collectives.example_keys(self.make_rng('drop_path'), collectives.positions(b, axis_name))
        keep = 1.0 - self.drop_path * jnp.linspace(0.0, 1.0, self.depth)[:, None]
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (self.depth, 2), jnp.float32))(keys)
        return ((drawn < keep) / keep).astype(self.dtype)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for unknown names and for sizes that do not fit each other or the images' shape."""
        p = self.patch_size
        for field, legal in (('stem', ('patch', 'conv')), ('position', POSITIONS), ('kernel_init', KERNEL_INITS)):
            if (value := getattr(self, field)) not in legal:
                raise ValueError(f'ViT {field} {value!r} is unknown; use {" or ".join(legal)}')
        if self.stem == 'conv' and (p != CONV_STEM_STRIDE or self.width % 8):
            raise ValueError(
                f'ViT stem conv with patch_size {p}, width {self.width}: it needs patch_size {CONV_STEM_STRIDE} and a '
                'width that is a multiple of 8'
            )
        if self.width % self.num_heads:
            raise ValueError(f'ViT width {self.width} is not divisible by num_heads {self.num_heads}')
        if not 0 <= self.drop_path < 1:
            raise ValueError(f'ViT drop_path {self.drop_path} is out of range; it must be at least 0 and below 1')
        for size in shape[1:3]:
            if size % p:
                low = size - size % p
                use = f'{low} or {low + p}' if low else f'{p}'
                raise ValueError(f'image size {size} is not divisible by patch_size {p}; use {use}')


def _initializer(kernel_init: str) -> nn.initializers.Initializer:
    return nn.initializers.xavier_uniform() if kernel_init == 'xavier' else INITS[kernel_init]


def vit(name: str, patch_size: int = 16, **fields: Any) -> VisionTransformer:
    """Builds the ViT with this name in `VITS`; `fields` override its values."""
    return VisionTransformer(**{**VITS[name], 'patch_size': patch_size, **fields})
