"""Projection and prediction heads."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax import rules
from contrastive_jax.models.norm import BatchNorm

torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # U(±1/√fan_in), as torch's nn.Linear

# Initializers of kernels. Biases start at 0, except for 'torch', where they are uniform like the kernels.
INITS: dict[str, nn.initializers.Initializer] = {
    'torch': torch_uniform,
    'normal': nn.initializers.normal(0.01),  # SimCLR
    'trunc_normal': nn.initializers.normal(
        0.02
    ),  # DINO: timm's trunc_normal_(std=.02) truncates at ±2, which has no effect
}

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'relu': nn.relu,
    'gelu': lambda x: nn.gelu(x, approximate=False),  # as torch's nn.GELU
}


class MLP(nn.Module):
    """The head of every method: linear layers with an activation, and optionally batch norm, between them.

    MoCo v1: 1 layer with bias. MoCo v2: 2 layers with bias, no batch norm. MoCo v3 (arXiv:2104.02057): no bias, batch
    norm after every hidden layer; the projectors, and the predictor of the ViTs, end with a batch norm without scale
    and offset. SimCLR: as MoCo v3, with a scale at the end. The layers are named linear_0, bn_0, linear_1, ...

    Attributes:
      num_layers: the number of linear layers, at least 1.
      hidden_dim: the outputs of every linear layer but the last.
      output_dim: the outputs of the last linear layer.
      bias: whether linear layers have a bias.
      last_bias: whether the last linear layer has a bias; None: as `bias`.
      batch_norm: whether a batch norm follows every linear layer but the last.
      last_batch_norm: whether a batch norm follows the last linear layer.
      last_batch_norm_affine: whether that last batch norm learns a scale and an offset.
      last_batch_norm_offset: whether that last batch norm learns an offset; None: as `last_batch_norm_affine`.
      activation: 'relu' or 'gelu', applied after every layer but the last.
      kernel_init: the initializer of the kernels, 'torch', 'normal' or 'trunc_normal'; see `INITS`.
      bn_group_size: the number of examples that share BN statistics; None: the global batch. See `BatchNorm`.
      bn_views: how many views follow each other in a batch, each with BN statistics of its own; see `BatchNorm.views`.
      bn_momentum: the momentum of the running statistics, new = bn_momentum * old + (1 - bn_momentum) * batch.
      bn_epsilon: added to the variance.
      bn_unbiased: whether the running variance is unbiased, as in torch, or not, as in Keras and Haiku.
      dtype: the dtype of the computation; parameters are float32.
    """

    num_layers: int = rules.field(least=1)
    hidden_dim: int = rules.field(least=1)
    output_dim: int = rules.field(least=1)
    bias: bool = False
    last_bias: bool | None = None
    batch_norm: bool = True
    last_batch_norm: bool = False
    last_batch_norm_affine: bool = False
    last_batch_norm_offset: bool | None = None
    activation: str = 'relu'
    kernel_init: str = 'torch'
    bn_group_size: int | None = None
    bn_views: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased: bool = True
    dtype: Dtype = jnp.float32

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Applies all layers.

        Args:
          x: [B, D], the local examples.
          train: whether batch norm uses the statistics of the batch; otherwise the running ones.
          axis_name: the mapped device axis; None: the whole batch is on one device.

        Returns:
          [B, output_dim], in float32 or a wider dtype.

        Raises:
          ValueError: fewer than one layer, or an unknown activation or kernel_init.
        """
        return self.projector_features(x, self.num_layers, train=train, axis_name=axis_name)

    @nn.compact
    def projector_features(self, x: Array, count: int, *, train: bool, axis_name: str | None = None) -> Array:
        """The output of the first `count` linear layers, with their batch norm and activation; x if `count` is 0."""
        if self.num_layers < 1:
            raise ValueError(f'MLP num_layers {self.num_layers} must be at least 1')
        for field, legal in (('activation', ACTIVATIONS), ('kernel_init', INITS)):
            if (value := getattr(self, field)) not in legal:
                raise ValueError(f'MLP {field} {value!r} is unknown; use one of {", ".join(legal)}')
        for i in range(count):
            last = i == self.num_layers - 1
            x = nn.Dense(
                self.output_dim if last else self.hidden_dim,
                use_bias=self.last_bias if last and self.last_bias is not None else self.bias,
                kernel_init=INITS[self.kernel_init],
                bias_init=uniform(x.shape[-1] ** -0.5) if self.kernel_init == 'torch' else nn.initializers.zeros,
                dtype=self.dtype,
                name=f'linear_{i}',
            )(x)
            if self.last_batch_norm if last else self.batch_norm:
                scale = not last or self.last_batch_norm_affine
                offset = scale if not last or self.last_batch_norm_offset is None else self.last_batch_norm_offset
                x = BatchNorm(
                    group_size=self.bn_group_size,
                    views=self.bn_views,
                    momentum=self.bn_momentum,
                    epsilon=self.bn_epsilon,
                    unbiased=self.bn_unbiased,
                    use_scale=scale,
                    use_bias=offset,
                    dtype=self.dtype,
                    name=f'bn_{i}',
                )(x, train=train, axis_name=axis_name)
            if not last:
                x = ACTIVATIONS[self.activation](x)
        return x.astype(jnp.promote_types(self.dtype, jnp.float32))


def uniform(bound: float) -> nn.initializers.Initializer:
    """An initializer that draws from U(-bound, bound)."""

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
