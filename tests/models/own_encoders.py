"""Encoders as a user writes them, outside of the package; `build_encoder` imports them by name."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from contrastive_jax.models import BatchNorm


class Plain(nn.Module):
    """A convolution without batch norm: it has no field `bn_group_size`."""

    width: int = 4
    kernel_size: tuple[int, int] = (3, 3)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        x = nn.relu(nn.Conv(self.width, self.kernel_size, dtype=self.dtype)(x))
        return x.mean((1, 2), dtype=jnp.promote_types(self.dtype, jnp.float32))


class Normalized(nn.Module):
    """A convolution with batch norm; the width has no default."""

    width: int
    bn_group_size: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None = None) -> Array:
        x = nn.Conv(self.width, (3, 3), strides=2, dtype=self.dtype)(x)
        x = BatchNorm(group_size=self.bn_group_size, dtype=self.dtype)(x, train=train, axis_name=axis_name)
        return nn.relu(x).mean((1, 2), dtype=jnp.promote_types(self.dtype, jnp.float32))


class Grid(Plain):
    """Wrong: features for each pixel."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        return nn.Conv(self.width, self.kernel_size, dtype=self.dtype)(x)


class Pair(Plain):
    """Wrong: two outputs."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Any:
        return x, x


class WithoutDtype(nn.Module):
    """Wrong: nobody can tell in which type it takes images."""

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        return x.mean((1, 2))


class WithoutTrain(Plain):
    """Wrong: a call as in most tutorials."""

    def __call__(self, x: Array) -> Array:  # type: ignore[override]
        return x.mean((1, 2))


class WithoutCall(nn.Module):
    """Wrong: another method."""

    dtype: Any = jnp.float32

    def encode(self, x: Array, *, train: bool) -> Array:
        return x.mean((1, 2))


def function(x: Array) -> Array:
    """Wrong: not a module."""
    return x
