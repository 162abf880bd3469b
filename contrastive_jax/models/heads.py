"""Projection and prediction heads."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax import rules
from contrastive_jax.models.norm import BatchNorm

torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # U(±1/√fan_in), torch's nn.Linear

# Initial kernels; biases start at 0, but torch's are uniform like its kernels.
INITS: dict[str, nn.initializers.Initializer] = {
    'torch': torch_uniform,
    'normal': nn.initializers.normal(0.01),  # SimCLR
    'trunc_normal': nn.initializers.normal(0.02),  # DINO: timm's trunc_normal_(std=.02) cuts at ±2, which is never met
}

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'relu': nn.relu,
    'gelu': lambda x: nn.gelu(x, approximate=False),  # torch's nn.GELU
}


class MLP(nn.Module):
    """Linear layers with an activation, and optionally batch norm, between them: the heads of all methods.

    MoCo v1: 1 layer with bias. MoCo v2: 2 layers with bias, no batch norm. MoCo v3 (arXiv:2104.02057): no bias, batch
    norm after every hidden layer; projectors, and the predictor of the ViTs, end in a batch norm without factor and
    offset. SimCLR: likewise, with a factor at the end. Layers are named linear_0, bn_0, linear_1, ...

    Attributes:
      num_layers: linear layers, at least 1.
      hidden_dim: outputs of all but the last.
      output_dim: outputs of the last.
      bias: of the linear layers.
      last_bias: of the last one; None: as the others.
      batch_norm: after every hidden linear layer.
      last_batch_norm: also after the last.
      last_batch_norm_affine: with a learned factor and offset there.
      last_batch_norm_offset: with a learned offset there; None: as last_batch_norm_affine.
      activation: 'relu' or 'gelu', after every hidden layer.
      kernel_init: of the linear layers, 'torch', 'normal' or 'trunc_normal'; see `INITS`.
      bn_group_size: examples that share BN statistics, None: the whole global batch; see `BatchNorm`.
      bn_momentum: of the running statistics; new = bn_momentum * old + (1 - bn_momentum) * batch.
      bn_epsilon: added to the variance.
      bn_unbiased: of the running variance: True as in torch, False as in Keras and Haiku.
      dtype: of the computation; parameters are float32.
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
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased: bool = True
    dtype: Dtype = jnp.float32

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps [B, D] to [B, output_dim], returned in float32 at least because losses follow.

        Raises:
          ValueError: fewer than one layer, an unknown activation or kernel_init.
        """
        return self.projector_features(x, self.num_layers, train=train, axis_name=axis_name)

    @nn.compact
    def projector_features(self, x: Array, count: int, *, train: bool, axis_name: str | None = None) -> Array:
        """What comes out of the first `count` layers, norm and activation included; of 0: x."""
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
    """Initial values U(-bound, bound)."""

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
