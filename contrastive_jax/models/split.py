"""Two networks side by side, one for the luminance and one for the colours of an image (CMC, arXiv:1906.05849)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax.models.resnet import RESNETS, resnet

SPLIT_RESNETS = tuple(f'split_{name}' for name in RESNETS)


class Split(nn.Module):
    """`l` maps the first features or channels, `ab` the rest; the two results are concatenated.

    As an encoder it cuts images behind the first channel (L | ab, or Y | CbCr) and returns both representations side by
    side, so that evaluation sees one encoder. As a projector it cuts those in the middle again.

    Attributes:
      l: a network, called as l(x, train=..., axis_name=...).
      ab: another, with parameters of its own.
      channels: that `l` gets; None: half of them.
    """

    l: nn.Module
    ab: nn.Module
    channels: int | None = None

    @property
    def dtype(self) -> Dtype:
        return self.l.dtype

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps [B, ..., C] to [B, 2 D], l's D results first."""
        cut = x.shape[-1] // 2 if self.channels is None else self.channels
        l = self.l(x[..., :cut], train=train, axis_name=axis_name)
        ab = self.ab(x[..., cut:], train=train, axis_name=axis_name)
        return jnp.concatenate([l, ab], axis=-1)


def split(network: nn.Module, channels: int | None = None) -> Split:
    """Two networks of that form side by side."""
    return Split(l=network.clone(), ab=network.clone(), channels=channels)


def split_resnet(name: str, **fields: Any) -> Split:
    """CMC's encoder 'split_resnet50', ...: a ResNet for one channel and a ResNet for two; `fields` are of each."""
    return split(resnet(name.removeprefix('split_'), **fields), channels=1)
