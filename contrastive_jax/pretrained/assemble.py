"""Makes an encoder from arrays by path; the paths and shapes must be exactly those of its architecture."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.models.network import build_encoder
from contrastive_jax.pretrained import architecture as architectures
from contrastive_jax.pretrained import names
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.pixels import IMAGENET

SHOWN = 5  # the number of names that a message shows


def assemble(
    architecture: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    image_size: int,
    source: str,
    policy: Policy = IMAGENET,
) -> Encoder:
    """Makes an encoder.

    Args:
      architecture: the section `encoder` of a config, {'name': ..., and fields of the module}.
      arrays: the arrays by path, such as 'params/conv1/kernel', of any floating-point dtype.
      image_size: height and width of the images, in pixels.
      source: where the arrays come from, for messages and for `Encoder.source`.
      policy: how images are prepared.

    Raises:
      UserError: arrays are missing, unexpected, of another shape, or not finite.
    """
    expected = shapes(architecture, image_size, policy.channels)
    differences = compare({path: x.shape for path, x in arrays.items()}, expected)
    if differences:
        raise UserError(f'{source} does not match the encoder {architecture["name"]}: {few(differences)}')
    if bad := [path for path, x in arrays.items() if not np.isfinite(x).all()]:
        raise UserError(f'{source} contains NaN or infinity: {few(bad)}')
    flat = {path: np.array(arrays[path], np.float32, order='C').reshape(expected[path]) for path in expected}
    variables = unflatten_dict(flat, sep='/')
    module, stats = build_encoder(architecture), variables.get('batch_stats', {})
    return Encoder(module, variables['params'], stats, policy, image_size, architecture, source)


def shapes(architecture: Mapping[str, Any], image_size: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """The shapes of all variables of an encoder, by path.

    Raises:
      UserError: there is no such encoder.
    """
    try:
        module = build_encoder(architecture)
        images = jax.ShapeDtypeStruct((2, image_size, image_size, channels), np.float32)
        variables = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f'encoder {dict(architecture)} cannot be built: {" ".join(str(error).split())}') from error
    return {path: x.shape for path, x in flatten_dict(variables, sep='/').items()}


def arrays_by_path(config: dict[str, Any], state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of a state dict by our paths, and the size of the images.

    Args:
      config: the section `encoder` of a config.
      state: arrays by torchvision's or timm's names; those that the encoder does not have are kept as they are.

    Raises:
      UserError: there is no such encoder, or positions that it does not have.
    """
    size = architectures.image_size(config, state)
    ours = {theirs: path for path, theirs in names.torch_names(shapes(config, size)).items()}
    state = dict(state)
    if architectures.POSITION in state and architectures.POSITION not in ours:  # fixed, and not a parameter here
        wrong = architectures.check_position(state.pop(architectures.POSITION))
        if wrong:
            raise UserError(
                f'{wrong}; {config["name"]} has fixed sin-cos positions -> name the right ViT, such as '
                'encoder=dino_small'
            )
    return {ours.get(name, name): names.from_torch(ours.get(name, name), x) for name, x in state.items()}, size


def compare(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The differences between two sets of shapes by path, one text each."""
    missing = [f'{path} {list(expected[path])} is missing' for path in expected if path not in given]
    unexpected = [f'{path} {list(given[path])} is unexpected' for path in given if path not in expected]
    others = [
        f'{path} has shape {list(given[path])} instead of {list(shape)}'
        for path, shape in expected.items()
        if path in given and tuple(given[path]) != tuple(shape)
    ]
    return missing + unexpected + others


def few(items: list[str]) -> str:
    """The first SHOWN items, and the number of the others."""
    rest = f', and {len(items) - SHOWN} more' if len(items) > SHOWN else ''
    return ', '.join(items[:SHOWN]) + rest
