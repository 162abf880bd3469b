"""Encoder, projector and predictor as one network, built from plain mappings."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import Array

from contrastive_jax.errors import UserError
from contrastive_jax.models.cpc import CPC_ENCODERS, CPCEncoder, cpc
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.resnet import RESNETS, ResNet, resnet
from contrastive_jax.models.split import SPLIT_RESNETS, Split, split, split_resnet
from contrastive_jax.models.vit import VITS, VisionTransformer, vit

# name -> (what makes it, whose fields a config may set)
ENCODERS: dict[str, tuple[Callable[..., nn.Module], type[nn.Module]]] = {
    **dict.fromkeys(RESNETS, (resnet, ResNet)),
    **dict.fromkeys(SPLIT_RESNETS, (split_resnet, ResNet)),
    **dict.fromkeys(VITS, (vit, VisionTransformer)),
    **dict.fromkeys(CPC_ENCODERS, (cpc, CPCEncoder)),
}

DTYPES = ('float32', 'bfloat16', 'float64')


class Network(nn.Module):
    """x -> h -> z -> p. Its variables are {'params': {'encoder', 'projector', 'predictor'}, 'batch_stats': the same}.

    A target network is the same module applied to its own variables; `method='project'` needs no predictor there.

    Attributes:
      encoder: images to representations h.
      projector: h to projections z.
      predictor: z to predictions p, or None.
      chunks: pieces of the local batch that training runs one after the other, to save memory; see methods.base.apply.
    """

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None
    chunks: int = 1

    def encode(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Representation h [B, D] of images [B, H, W, 3]."""
        return self.encoder(x, train=train, axis_name=axis_name)

    def projector_features(self, x: Array, layers: int, *, train: bool, axis_name: str | None = None) -> Array:
        """What comes out of the first `layers` layers of the projector, an MLP; h, where that is none of them."""
        h = self.encode(x, train=train, axis_name=axis_name)
        return self.projector.projector_features(h, layers, train=train, axis_name=axis_name) if layers else h

    def project(self, x: Array, *, train: bool, axis_name: str | None = None) -> tuple[Array, Array]:
        """Representation h [B, D] and projection z [B, dim]; neither is L2-normalised."""
        h = self.encode(x, train=train, axis_name=axis_name)
        return h, self.projector(h, train=train, axis_name=axis_name)

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> tuple[Array, Array, Array]:
        """h [B, D], z [B, dim] and prediction p [B, dim]; p is z where there is no predictor."""
        h, z = self.project(x, train=train, axis_name=axis_name)
        return h, z, z if self.predictor is None else self.predictor(z, train=train, axis_name=axis_name)


class Projection(Network):
    """A network in the place of its encoder: its features are what comes out of the projector's first layers.

    Attributes:
      layers: how many; see `Network.projector_features`.
    """

    layers: int = 0

    @property
    def dtype(self) -> Dtype:
        return self.encoder.dtype

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:  # type: ignore[override]
        """Maps images [B, H, W, 3] to features [B, D]."""
        return self.projector_features(x, self.layers, train=train, axis_name=axis_name)


def build(
    encoder: Mapping[str, Any],
    projector: Mapping[str, Any],
    predictor: Mapping[str, Any] | None = None,
    *,
    dtype: str | Dtype = 'float32',
    bn_group_size: int | None = None,
    chunks: int = 1,
) -> Network:
    """The network that the sections of a config describe.

    Args:
      encoder: {'name': a key of ENCODERS, and any fields of its module}.
      projector: fields of `MLP`.
      predictor: fields of `MLP`, or None.
      dtype: of the computation, 'float32' or 'bfloat16'; parameters, BN statistics and outputs stay float32.
      bn_group_size: examples that share BN statistics, in all three parts; None: the whole global batch.
      chunks: of the network.

    Returns:
      The network, hashable; equal arguments give equal networks.

    Raises:
      UserError: an unknown name, field or dtype.
    """
    common = {'dtype': as_dtype(dtype), 'bn_group_size': bn_group_size}
    body, head = build_encoder(encoder, **common), build_head('projector', projector, **common)
    return Network(
        encoder=body,
        projector=split(head) if isinstance(body, Split) else head,  # each half gets its own
        predictor=None if predictor is None else build_head('predictor', predictor, **common),
        chunks=chunks,
    )


def build_encoder(config: Mapping[str, Any], **common: Any) -> nn.Module:
    """The encoder of a config section {'name': ..., fields}; see `build`."""
    fields = dict(config)
    name = fields.pop('name', None)
    if name not in ENCODERS:
        raise UserError(f'encoder.name {name!r} is unknown{suggest(name, ENCODERS)}')
    make, module = ENCODERS[name]
    # Without batch norm (CPC) there are no groups.
    legal = {field.name for field in dataclasses.fields(module)}
    common = {field: value for field, value in common.items() if field in legal}
    return make(name, **checked(f'encoder ({name})', module, {**common, **fields}))


def build_head(section: str, config: Mapping[str, Any], **common: Any) -> MLP:
    """The MLP of a config section; see `build`."""
    fields = checked(section, MLP, {**common, **config})
    missing = [name for name in ('num_layers', 'hidden_dim', 'output_dim') if name not in fields]
    if missing:
        raise UserError(f'{section} lacks {", ".join(missing)}; an MLP head needs num_layers, hidden_dim, output_dim')
    return MLP(**fields)


def checked(section: str, module: type[nn.Module], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with lists as (hashable) tuples.

    Raises:
      UserError: a field that the module does not have.
    """
    legal = [field.name for field in dataclasses.fields(module) if field.name not in ('parent', 'name')]
    for name in fields:
        if name not in legal:
            raise UserError(f'{section} has no field {name!r}{suggest(name, legal)}')
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def as_dtype(dtype: str | Dtype) -> np.dtype:
    """'float32', 'bfloat16' or their jax types as a dtype; float64 exists for tests.

    Raises:
      UserError: anything else; float16 would need loss scaling.
    """
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise UserError(f'dtype {name!r} is not supported; use float32 or bfloat16')
    return jnp.dtype(name)


def suggest(name: Any, legal: Iterable[str]) -> str:
    """'; did you mean ...? Legal: ...' for an error message."""
    legal = list(legal)
    close = difflib.get_close_matches(str(name), legal, n=2)
    did_you_mean = f'; did you mean {" or ".join(close)}?' if close else ';'
    return f'{did_you_mean} Legal: {", ".join(legal)}'
