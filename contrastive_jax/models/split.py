"""Two networks side by side, one for the lightness and one for the colors of an image (CMC, arXiv:1906.05849)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from contrastive_jax.models.resnet import RESNETS, resnet

SPLIT_RESNETS = tuple(f'split_{name}' for name in RESNETS)


class Split(nn.Module):
    """Applies `l` to the first channels and `ab` to the remaining ones, and concatenates the two outputs.

    As an encoder it splits images after the first channel (L | ab, or Y | CbCr); its output is one vector, so it is
    evaluated like any other encoder. As a projector it splits this vector in the middle.

    Attributes:
      l: a network, called as l(x, train=..., axis_name=...).
      ab: another network of the same form, with its own parameters.
      channels: the number of channels for `l`; None: half of them.
    """

    l: nn.Module
    ab: nn.Module
    channels: int | None = None

    @property
    def dtype(self) -> Dtype:
        return self.l.dtype

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps [B, ..., C] to [B, 2 D], the D outputs of `l` first."""
        cut = x.shape[-1] // 2 if self.channels is None else self.channels
        l = self.l(x[..., :cut], train=train, axis_name=axis_name)
        ab = self.ab(x[..., cut:], train=train, axis_name=axis_name)
        return jnp.concatenate([l, ab], axis=-1)


def split(network: nn.Module, channels: int | None = None) -> Split:
    """Two copies of a network side by side, each with its own parameters; `channels` as in `Split`."""
    return Split(l=network.clone(), ab=network.clone(), channels=channels)


def split_resnet(name: str, **fields: Any) -> Split:
    """Builds CMC's encoder 'split_resnet50', ...: a ResNet for one channel and one for two; `fields` apply to both."""
    return split(resnet(name.removeprefix('split_'), **fields), channels=1)
