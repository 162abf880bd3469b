"""Encoder, projector and predictor as one network, built from plain mappings.

An encoder is any Linen module that keeps the contract below. `encoder.name` is a key of ENCODERS or, for a module of
the user's own, 'package.module:Class'.

- `encoder(x, train=..., axis_name=None)` maps normalized images x [B, H, W, C] to features h [B, D], one vector for
  each image, in float32 or a wider type. With `train=False` the features of an image do not depend on other images.
- `encoder.dtype`, a field with a default or a property, is the dtype of the computation and of x. Parameters are
  float32.
- Its variables are in the collections 'params' and, with batch norm, 'batch_stats'. Batch norm is `models.BatchNorm`,
  called with `train` and `axis_name`, so that results do not depend on the number of devices. Its `group_size` is the
  field `bn_group_size` of the encoder: the config sets it, and multi-crop multiplies it. An encoder whose class itself
  declares a field `bn_views`, its `views`, gets several views in one pass; without it, as the ViTs, each view has a
  pass of its own.
- `encoder.feature_map(x, train=..., axis_name=None)`, [B, h, w, D], is needed by methods that decode images alone
  (methods/decoding.py); the ResNets have it.
- Its fields are hashable, because a module is a static argument of `jit`; lists in a config become tuples.
- It draws no random numbers, except from the stream 'drop_path' if `has_rng('drop_path')`.

The values in the config section `encoder` are passed to the class as fields, and so are `dtype` and `bn_group_size` if
it has such fields.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeGuard

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
from contrastive_jax.rules import did_you_mean

# name -> (the function that builds the encoder, the module whose fields a config may set)
ENCODERS: dict[str, tuple[Callable[..., nn.Module], type[nn.Module]]] = {
    **dict.fromkeys(RESNETS, (resnet, ResNet)),
    **dict.fromkeys(SPLIT_RESNETS, (split_resnet, ResNet)),
    **dict.fromkeys(VITS, (vit, VisionTransformer)),
    **dict.fromkeys(CPC_ENCODERS, (cpc, CPCEncoder)),
}

DTYPES = ('float32', 'bfloat16', 'float64')


class Network(nn.Module):
    """x -> h -> z -> p. The collections 'params' and 'batch_stats' have the keys 'encoder', 'projector', 'predictor'.

    A target network is the same module applied to its own variables; with `method='project'` it needs no predictor.

    Attributes:
      encoder: maps images to representations h; its contract is at the top of this file.
      projector: maps h to projections z.
      predictor: maps z to predictions p, or None.
      chunks: the number of pieces of the local batch that training processes one after the other to save memory; see
        `methods.networks.apply`.
      tile: views go through a ResNet in one pass if they fill fewer tiles of so many images then; 0: never. On a
        TPU many of its layers pad the images of a pass to 128: two passes of 64 move a seventh more bytes than one
        (`benchmarks/README.md`, plans). On GPUs one pass would move more, and in a ViT it is no gain.
    """

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None
    chunks: int = 1
    tile: int = 0

    def encode(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Maps images [B, H, W, C] to representations h [B, D].

        Raises:
          UserError: the encoder does not return one vector for each image.
        """
        h = self.encoder(x, train=train, axis_name=axis_name)
        if not hasattr(h, 'shape') or h.ndim != 2 or h.shape[0] != x.shape[0]:
            returned = list(h.shape) if hasattr(h, 'shape') else f'a {type(h).__name__}'
            raise UserError(
                f'encoder {type(self.encoder).__name__} returns {returned} for images {list(x.shape)} -> '
                'return features [B, D], one vector for each image'
            )
        return h

    def projector_features(self, x: Array, layers: int, *, train: bool, axis_name: str | None = None) -> Array:
        """The output [B, D] of the first `layers` layers of the projector, an MLP; h if `layers` is 0."""
        h = self.encode(x, train=train, axis_name=axis_name)
        return self.projector.projector_features(h, layers, train=train, axis_name=axis_name) if layers else h

    def project(self, x: Array, *, train: bool, axis_name: str | None = None) -> tuple[Array, Array]:
        """Maps images [B, H, W, C] to h [B, D] and projections z [B, dim]; neither is L2-normalized."""
        h = self.encode(x, train=train, axis_name=axis_name)
        return h, self.projector(h, train=train, axis_name=axis_name)

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> tuple[Array, Array, Array]:
        """Maps images [B, H, W, C] to h [B, D], z [B, dim] and predictions p [B, dim]; without a predictor, p is z."""
        h, z = self.project(x, train=train, axis_name=axis_name)
        return h, z, z if self.predictor is None else self.predictor(z, train=train, axis_name=axis_name)


class Projection(Network):
    """An encoder made of a network: its features are the output of the first layers of the projector.

    Attributes:
      layers: the number of projector layers; see `Network.projector_features`.
    """

    layers: int = 0

    @property
    def dtype(self) -> Dtype:
        return self.encoder.dtype

    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:  # type: ignore[override]
        """Maps images [B, H, W, C] to features [B, D]."""
        return self.projector_features(x, self.layers, train=train, axis_name=axis_name)


def build(
    encoder: Mapping[str, Any],
    projector: Mapping[str, Any],
    predictor: Mapping[str, Any] | None = None,
    *,
    dtype: str | Dtype = 'float32',
    bn_group_size: int | None = None,
    chunks: int = 1,
    tile: int = 0,
) -> Network:
    """Builds the network that the sections of a config describe.

    Args:
      encoder: {'name': see `build_encoder`, and any fields of the encoder's module}.
      projector: fields of `MLP`.
      predictor: fields of `MLP`, or None.
      dtype: the dtype of the computation, 'float32' or 'bfloat16'; parameters, BN statistics and outputs are float32.
      bn_group_size: the number of examples that share BN statistics, in all three parts; None: the global batch.
      chunks, tile: see `Network`.

    Returns:
      The network. It is hashable, and equal arguments give equal networks.

    Raises:
      UserError: an unknown name, field or dtype.
    """
    common = {'dtype': as_dtype(dtype), 'bn_group_size': bn_group_size}
    body, head = build_encoder(encoder, **common), build_head('projector', projector, **common)
    return Network(
        encoder=body,
        projector=split(head) if isinstance(body, Split) else head,  # a projector for each half
        predictor=None if predictor is None else build_head('predictor', predictor, **common),
        chunks=chunks,
        tile=tile,
    )


def build_encoder(config: Mapping[str, Any], **common: Any) -> nn.Module:
    """Builds the encoder that a config section describes.

    Args:
      config: {'name': ..., and any fields of the encoder's module}. The name is a key of ENCODERS or, for a module of
        the user's own, 'package.module:Class': the Python module is imported, which runs its code.
      **common: `dtype`, `bn_group_size` and other values that are ignored if the module has no such field.

    Raises:
      UserError: an unknown name, an unknown or missing field, or a class that cannot be imported or that does not keep
        the contract at the top of this file.
    """
    fields = dict(config)
    name = fields.pop('name', None)
    make: Callable[..., nn.Module]
    if ':' in str(name):
        make = module = import_encoder(str(name))
    elif name in ENCODERS:
        make, module = partial(ENCODERS[name][0], name), ENCODERS[name][1]
    else:
        raise UserError(
            f'encoder.name {name!r} is unknown{did_you_mean(name, ENCODERS)} -> choose from {", ".join(ENCODERS)}, or '
            "give a module of your own as 'package.module:Class'"
        )
    legal = {field.name for field in dataclasses.fields(module)}
    common = {field: value for field, value in common.items() if field in legal}
    fields = checked(f'encoder ({name})', module, {**common, **fields})
    if name not in ENCODERS and (missing := [field for field in required(module) if field not in fields]):
        raise UserError(
            f'encoder ({name}) lacks {", ".join(missing)} -> set encoder.{missing[0]}, or give it a default'
        )
    return make(**fields)


def encoder_class_or_none(name: str) -> type[nn.Module] | None:
    """The module whose fields a config of this encoder may set; None if there is no such encoder."""
    try:
        return import_encoder(name) if ':' in name else ENCODERS[name][1]
    except (KeyError, UserError):
        return None


def import_encoder(name: str) -> type[nn.Module]:
    """Imports an encoder's class by its name 'package.module:Class'.

    Raises:
      UserError: the Python module cannot be imported, or has no class of this name that keeps the contract at the top
        of this file, as far as it can be checked without building the encoder.
    """
    module_name, _, class_name = name.partition(':')
    given = f'encoder.name {name!r}'
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the code of the module runs here and may raise anything
        reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
        raise UserError(
            f'{given} cannot be imported ({reason}) -> make `import {module_name}` work in Python'
        ) from error
    found = getattr(module, class_name, None)
    if not _is_linen_class(found):
        package = module_name.partition('.')[0]  # modules imported from elsewhere are not suggested
        linen = [
            key
            for key, value in vars(module).items()
            if _is_linen_class(value) and value.__module__.partition('.')[0] == package
        ]
        what = 'is not a flax.linen.Module class' if found is not None else f'is not in {module_name}'
        remedy = f'choose from {", ".join(linen)}' if linen else 'name a subclass of flax.linen.Module'
        raise UserError(f'{given}: {class_name!r} {what}{did_you_mean(class_name, linen)} -> {remedy}')
    if 'dtype' not in dir(found):
        raise UserError(f'{given} has no dtype -> add a field `dtype: Any = jnp.float32`, the dtype of the computation')
    call = inspect.signature(found.__call__) if '__call__' in dir(found) else inspect.Signature()
    try:
        for how in ({'train': True, 'axis_name': None}, {'train': False}):
            call.bind('self', 'x', **how)
    except TypeError as error:
        raise UserError(
            f'{given} cannot be called as an encoder ({error}) -> define __call__(self, x, *, train, axis_name=None)'
        ) from error
    return found


def build_head(section: str, config: Mapping[str, Any], **common: Any) -> MLP:
    """Builds the MLP that a config section describes.

    Args:
      section: the name of the section, for messages.
      config: fields of `MLP`.
      **common: further fields of `MLP`; those in `config` take precedence.

    Raises:
      UserError: an unknown or missing field.
    """
    fields = checked(section, MLP, {**common, **config})
    if missing := [name for name in required(MLP) if name not in fields]:
        raise UserError(f'{section} lacks {", ".join(missing)} -> an MLP needs {", ".join(required(MLP))}')
    return MLP(**fields)


def checked(section: str, module: type[nn.Module], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with lists replaced by (hashable) tuples.

    Raises:
      UserError: the module has no such field.
    """
    legal = [field.name for field in dataclasses.fields(module) if field.name not in ('parent', 'name')]
    for name in fields:
        if name not in legal:
            raise UserError(
                f'{section} has no field {name!r}{did_you_mean(name, legal)} -> choose from {", ".join(legal)}'
            )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def required(module: type[nn.Module]) -> list[str]:
    """The fields of a module that have no default."""
    return [
        field.name
        for field in dataclasses.fields(module)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def as_dtype(dtype: str | Dtype) -> np.dtype:
    """The dtype 'float32' or 'bfloat16', given by name or as a jax type; 'float64' is for tests.

    Raises:
      UserError: any other dtype; float16 would need loss scaling.
    """
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise UserError(f'dtype {name!r} is not supported -> use float32 or bfloat16')
    return jnp.dtype(name)


def _is_linen_class(value: Any) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module)
