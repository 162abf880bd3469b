"""Vision transformers as MoCo v3 and DINO train them: sin-cos or learned positions, patches or a convolutional stem."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import Array, lax

from contrastive_jax import rules
from contrastive_jax.distributed import collectives
from contrastive_jax.models.heads import INITS, torch_uniform, uniform
from contrastive_jax.models.norm import BatchNorm

DINO = {'position': 'learned', 'kernel_init': 'trunc_normal'}

VITS: dict[str, dict[str, Any]] = {
    'vit_tiny': {'width': 192, 'depth': 12, 'num_heads': 3},
    # MoCo v3 gives 12 heads to small and base alike; DINO, DeiT and timm give 6 to small. Parameters do not tell.
    'vit_small': {'width': 384, 'depth': 12, 'num_heads': 12},
    'vit_base': {'width': 768, 'depth': 12, 'num_heads': 12},
    'vit_large': {'width': 1024, 'depth': 24, 'num_heads': 16},
    # The convolutional stem costs about a block, so there is one block less.
    'vit_conv_small': {'width': 384, 'depth': 11, 'num_heads': 12, 'stem': 'conv'},
    'vit_conv_base': {'width': 768, 'depth': 11, 'num_heads': 12, 'stem': 'conv'},
    'dino_tiny': {'width': 192, 'depth': 12, 'num_heads': 3, **DINO},
    'dino_small': {'width': 384, 'depth': 12, 'num_heads': 6, **DINO},
    'dino_base': {'width': 768, 'depth': 12, 'num_heads': 12, **DINO},
}

CONV_STEM_STRIDE = 16
POSITIONS = ('sincos', 'learned')
KERNEL_INITS = ('xavier', 'trunc_normal')


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


def resize_positions(position: Array, height: int, width: int) -> Array:
    """Learned positions, of a cls token and a square grid [1 + N, D], for a grid of [1 + height * width, D]."""
    side = math.isqrt(len(position) - 1)
    if (height, width) == (side, side):
        return position
    rows, columns = (jnp.asarray(bicubic(side, size), position.dtype) for size in (height, width))
    grid = position[1:].reshape(side, side, -1)
    grid = jnp.einsum('hr,wc,rcd->hwd', rows, columns, grid, precision=lax.Precision.HIGHEST)
    return jnp.concatenate([position[:1], grid.reshape(height * width, -1)])


def bicubic(source: int, target: int) -> np.ndarray:
    """DINO's interpolation of `source` learned positions to `target`, along one axis of the image.

    torch's bicubic kernel (a = -0.75), not antialiased, edges repeated. The authors ask for (target + 0.1) / source as
    the scale, lest rounding lose a patch, and torch samples at that scale: a plain resize gives other positions.

    Returns:
      float64[target, source].
    """
    at = (np.arange(target) + 0.5) * source / (target + 0.1) - 0.5  # where the target's patches lie in the source
    weights = np.zeros((target, source))
    for tap in range(-1, 3):
        index = np.floor(at).astype(int) + tap
        np.add.at(weights, (np.arange(target), np.clip(index, 0, source - 1)), _cubic(np.abs(at - index)))
    return weights


def _cubic(t: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' kernel at the distances t in [0, 2]."""
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, far)


class PatchEmbed(nn.Module):
    """Cuts images into patches and maps each linearly; 'proj' has a kernel [p, p, C, width] like a convolution's.

    Attributes:
      patch_size: p, in pixels.
      width: channels of a token.
      kernel_init: 'xavier', or else torch's convolutions, as in DINO: there only linear layers are 'trunc_normal'.
      dtype: of the computation.
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
      kernel_init: 'xavier' or 'trunc_normal'.
      dtype: of the computation; the softmax runs in float32 at least.
    """

    num_heads: int
    qkv_bias: bool
    queries: int | None
    kernel_init: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps tokens [B, N, D] to [B, queries, D] and the attention paid, [B, heads, queries, N]."""
        b, n, d = x.shape
        init = _initializer(self.kernel_init)
        # Xavier for each of q, k and v on its own, [D, D], not for the joint [D, 3D].
        qkv_init = uniform((6 / (d + d)) ** 0.5) if self.kernel_init == 'xavier' else init
        qkv = nn.Dense(3 * d, use_bias=self.qkv_bias, kernel_init=qkv_init, dtype=self.dtype, name='qkv')(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(b, n, 3, self.num_heads, d // self.num_heads), 2, 0
        )  # [B, N, heads, D/heads]
        # Written out because jax.nn.dot_product_attention takes its softmax in float32 even when all else is float64.
        logits = jnp.einsum('bqhd,bkhd->bhqk', q[:, : self.queries], k)
        logits = logits.astype(jnp.promote_types(self.dtype, jnp.float32)) * (d // self.num_heads) ** -0.5
        weights = nn.softmax(logits).astype(self.dtype)
        x = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(b, -1, d)
        return nn.Dense(d, kernel_init=init, dtype=self.dtype, name='proj')(x), weights


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: x + attention(LN(x)), then x + MLP(LN(x)) with exact GELU.

    Attributes:
      num_heads: of the attention.
      mlp_ratio: hidden channels of the MLP / channels of a token.
      qkv_bias: a bias on queries, keys and values.
      layer_norm_epsilon: added to the variance.
      queries: put out only the first so many tokens; None: all.
      kernel_init: 'xavier' or 'trunc_normal'.
      dtype: of the computation.
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
        """One block.

        Args:
          x: tokens [B, N, D].
          kept: [B, 2] factors of the two branches, for drop path; None: 1.

        Returns:
          Tokens [B, queries, D], and the attention that they paid to all tokens, [B, heads, queries, N].
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

    There is no classifier. Modules are named as in timm, with `blocks_0` for `blocks.0` and `mlp_fc1` for `mlp.fc1`.
    Positions are computed from the shape of the images, so crops of any divisible size are legal.

    Attributes:
      patch_size: in pixels; a convolutional stem fixes it to 16.
      width: channels of a token, D.
      depth: number of blocks.
      num_heads: of the attention; must divide the width.
      mlp_ratio: hidden channels of the MLP / width.
      qkv_bias: a bias on queries, keys and values.
      layer_norm_epsilon: added to the variance.
      stem: 'patch' or 'conv'.
      position: 'sincos', fixed, or 'learned' on the grid of the (square) images that the parameters are made with, and
        interpolated for others.
      kernel_init: of the linear layers, 'xavier' as in MoCo v3 or 'trunc_normal' as in DINO.
      drop_path: how often the branches of the last block are left out, for each image by itself; in the first block
        never, in between linearly. Only where there is a key 'drop_path': a teacher is applied without.
      bn_group_size: of the convolutional stem: examples that share BN statistics; see `BatchNorm`.
      bn_momentum: of the stem's running statistics.
      bn_epsilon: added to the variance.
      remat: recompute each block in the backward pass: less memory, a third more work, the same numbers.
      dtype: of the computation; parameters are float32.
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
          x: [B, H, W, 3] images, normalised; H and W are multiples of the patch size.
          train: normalise with the statistics of the batch (convolutional stem only).
          axis_name: the mapped device axis; None: all of the batch is here.

        Returns:
          h: [B, D], the cls token after the final LayerNorm, in float32 at least.

        Raises:
          ValueError: sizes that do not divide, or an unknown stem, position or kernel_init.
        """
        # Only the cls token is wanted: the last block computes nothing else, 6 % less work in 12 blocks.
        (tokens,), _ = self.blocks(x, 1, queries=1, train=train, axis_name=axis_name)
        return tokens[:, 0]

    def intermediate_layers(self, x: Array, count: int) -> list[Array]:
        """What the last `count` blocks put out, in eval mode: all tokens [B, 1 + N, D], after the final LayerNorm."""
        return self.blocks(x, count, queries=None, train=False, axis_name=None)[0]

    def last_attention(self, x: Array) -> Array:
        """What the tokens look at in the last block, in eval mode: [B, heads, 1 + N, 1 + N], rows sum to 1."""
        return self.blocks(x, 1, queries=None, train=False, axis_name=None)[1]

    @nn.compact
    def blocks(
        self, x: Array, count: int, *, queries: int | None, train: bool, axis_name: str | None
    ) -> tuple[list[Array], Array]:
        """The whole network; `__call__` and the other methods say what is wanted of it.

        Args:
          x: [B, H, W, 3] images.
          count: blocks whose tokens are returned, from the last.
          queries: tokens that the last block computes; None: all.
          train, axis_name: as for `__call__`.

        Returns:
          Normalised tokens of each of these blocks, in float32 at least, and the attention of the last.
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
        """Position embedding [1 + height * width, D] of a grid of patches, with a row for the cls token."""
        if self.position == 'sincos':
            return jnp.asarray(sincos_position(height, width, self.width), self.dtype)
        if self.is_initializing() and height != width:
            raise ValueError(f'ViT positions are learned on a square grid; make the parameters with {height}x{height}')
        shape = (1, 1 + height * width, self.width)
        if self.has_variable('params', 'pos_embed'):
            shape = self.get_variable('params', 'pos_embed').shape  # of the images it was made with
        position = self.param('pos_embed', INITS['trunc_normal'], shape, jnp.float32)[0]
        return resize_positions(position, height, width).astype(self.dtype)

    def kept_paths(self, b: int, axis_name: str | None) -> Array | None:
        """Drop path (Huang et al., arXiv:1603.09382): factors [b, depth, 2] of mean 1; None where nothing is dropped.

        Drawn by the position in the global batch: the devices change nothing.
        """
        if not self.drop_path or not self.has_rng('drop_path'):
            return None
        keys = collectives.example_keys(self.make_rng('drop_path'), collectives.positions(b, axis_name))
        keep = 1.0 - self.drop_path * jnp.linspace(0.0, 1.0, self.depth)[:, None]
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (self.depth, 2), jnp.float32))(keys)
        return ((drawn < keep) / keep).astype(self.dtype)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for names that are unknown and sizes that do not fit each other."""
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
            raise ValueError(f'ViT width {self.width} % num_heads {self.num_heads} = {self.width % self.num_heads}')
        if not 0 <= self.drop_path < 1:
            raise ValueError(f'ViT drop_path {self.drop_path} is out of range; a probability below 1, 0: none')
        for size in shape[1:3]:
            if size % p:
                low = size - size % p
                use = f'{low} or {low + p}' if low else f'{p}'
                raise ValueError(f'image {size} % patch {p} = {size % p}; use {use}')


def _initializer(kernel_init: str) -> nn.initializers.Initializer:
    return nn.initializers.xavier_uniform() if kernel_init == 'xavier' else INITS[kernel_init]


def vit(name: str, patch_size: int = 16, **fields: Any) -> VisionTransformer:
    """The ViT of that name in `VITS`; `fields` override its values."""
    return VisionTransformer(**{**VITS[name], 'patch_size': patch_size, **fields})
