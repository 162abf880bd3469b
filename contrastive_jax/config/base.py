"""What config files import: the base config, its sections, and ':variant' parsing.

`fields.py` declares the fields, `check.py` finds what is wrong with a config, `build.py` makes its objects.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.augment.patches import Patches
from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.fields import Auto, Data, Eval, Optimizer, Schedule, Training
from contrastive_jax.config.plan import get
from contrastive_jax.errors import UserError
from contrastive_jax.methods import find_method
from contrastive_jax.models.heads import MLP
from contrastive_jax.rules import defaults, did_you_mean

Change = Callable[[ConfigDict], None]

LAST = 'continue'  # a variant that changes rates and lengths of the recipe with all other variants


def base_config(method: str) -> ConfigDict:
    """The fields that every config has, with their defaults. A recipe fills in its paper's values.

    What each field means is in config/fields.py and in the classes named there; `describe.describe_fields` prints it.

    Args:
      method: a key of METHODS, or 'package.module:Class'; its hyperparameters become the section `method`, with the
        defaults of its class.
    """
    c = defaults(Training)
    c.data = defaults(Data)
    c.encoder = encoder_config('resnet50')
    c.projector = ConfigDict()  # `head_config(...)`
    c.predictor = ConfigDict()  # likewise; empty: none
    c.method = defaults(find_method(method), name=method)
    c.augment = defaults(Policy)
    c.optimizer = defaults(Optimizer)
    c.schedule = defaults(Schedule)
    c.eval = defaults(Eval)
    c.auto = defaults(Auto)
    return c


def encoder_config(name: str, **fields: Any) -> ConfigDict:
    """The section `encoder`: its name, the fields that users often set, and those that the recipe sets.

    Args:
      name: a name in models.network.ENCODERS, e.g. 'resnet50', 'split_resnet50', 'vit_small'.
      **fields: fields of the module (models.resnet.ResNet, models.vit.VisionTransformer, models.cpc.CPCEncoder).
    """
    if ':' in name:  # a module of the user's own has its own fields
        return ConfigDict({'name': name, **fields})
    usual: dict[str, Any] = {'patch_size': 16}
    if name.removeprefix('split_').startswith('resnet'):
        usual = {'stem': 'imagenet', 'width_multiplier': 1, 'zero_init_residual': False}
    elif name.startswith('cpc'):
        usual = {'stem': 'imagenet', 'norm': 'layer', 'patch_size': 80, 'patch_stride': 36}
    return ConfigDict({'name': name, **usual, 'remat': False, **fields})


def head_config(num_layers: int, hidden_dim: int, output_dim: int, **fields: Any) -> ConfigDict:
    """The sections `projector` and `predictor`: fields of a models.heads.MLP, the usual ones and those given."""
    names = ('bias', 'batch_norm', 'last_batch_norm', 'last_batch_norm_affine')
    usual = {field.name: field.default for field in dataclasses.fields(MLP) if field.name in names}
    sizes = {'num_layers': num_layers, 'hidden_dim': hidden_dim, 'output_dim': output_dim}
    return ConfigDict({**sizes, **usual, **fields})


def patches_config(encoder: ConfigDict, **fields: Any) -> ConfigDict:
    """The section `augment.patches`, an augment.patches.Patches, with the patches of a CPC encoder.

    Args:
      encoder: the section `encoder`, which has the size and the stride of the patches.
      **fields: further fields of the class.
    """
    return defaults(Patches, **{'size': encoder.patch_size, 'stride': encoder.patch_stride, **fields})


def tiles_config(size: int, stride: int, tile: int, **fields: Any) -> ConfigDict:
    """The section `augment.patches` of a method that solves a puzzle of tiles: relative position, jigsaw.

    Args:
      size: the height and width of a cell of the grid, in pixels.
      stride: the distance from one cell to the next, in pixels.
      tile: the height and width of the tile, which is a random square of the cell, in pixels.
      **fields: further fields of augment.patches.Patches.
    """
    return defaults(Patches, size=size, stride=stride, tile=tile, **fields)


def apply_variants(config: ConfigDict, argument: str, variants: Mapping[str, Change]) -> ConfigDict:
    """Applies the comma-separated variants of `--config=file.py:small,cifar10`, in order, and locks the fields.

    The variant `continue` is applied last, wherever it stands.

    Args:
      config: the paper's recipe; it is changed in place.
      argument: the text after the colon; may be empty.
      variants: the function that each variant applies to the config, by the name of the variant.

    Raises:
      UserError: an unknown variant.
    """
    changed = set[str]()
    given = [name for name in (argument or '').split(',') if name]
    for name in [*(name for name in given if name != LAST), *([LAST] if LAST in given else [])]:
        if name not in variants:
            raise UserError(
                f'unknown variant {name!r}{did_you_mean(name, variants)}', remedy=f'choose from {", ".join(variants)}'
            )
        before, fits = _network_and_length(config), get(config, 'auto.reference_batch')
        variants[name](config)
        after = _network_and_length(config)
        # Not the variant that lets fields be chosen, nor the one that shortens what is chosen.
        if get(config, 'auto.reference_batch') == fits and name != LAST:
            changed |= {field for field, value in after.items() if before.get(field) != value}
    if get(config, 'auto.reference_batch'):  # a variant such as `r18` or `long` is a choice of the user's
        config.auto.fields = tuple(field for field in config.auto.fields if field not in changed)
    config.lock()
    return config


def _network_and_length(config: ConfigDict) -> dict[str, Any]:
    """The fields that a variant of a recipe decides for the user: the encoder and the number of epochs."""
    fields = ['epochs', 'encoder.name', 'encoder.width_multiplier', 'encoder.patch_size']
    if get(config, 'encoder.patch_stride'):  # CPC: its patches belong to the size of the images
        fields.pop()
    return {field: get(config, field) for field in fields}
