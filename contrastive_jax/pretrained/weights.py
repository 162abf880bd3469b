"""An encoder with its weights: what a file of ours holds, and what is left of a published checkpoint or a run."""

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.models import network
from contrastive_jax.pretrained import files

FORMAT = 'contrastive_jax encoder 1'
PIXELS = ('color_space', 'mean', 'std', 'style', 'interpolation')  # of a Policy
IMAGENET = Policy()  # its mean and std
# What encoders see: channels in some colour space, less a mean, over a standard deviation.
SEEN: dict[str, dict[str, Any]] = {
    'imagenet': {'color_space': 'rgb', 'mean': IMAGENET.mean, 'std': IMAGENET.std},
    'half': {'color_space': 'rgb', 'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)},  # [-1, 1]: timm's augreg ViTs
    'unit': {'color_space': 'rgb', 'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0)},  # [0, 1]: SimCLR
    'lab': {'color_space': 'lab', 'mean': (50.0, 6.025, -6.6895), 'std': (50.0, 92.208, 101.1675)},  # CMC
}
MAX_SIZE = 4096  # of images
SHOWN = 5  # names in a message, of however many


@dataclasses.dataclass(frozen=True)
class Weights:
    """An encoder. Features of images uint8[B, H, W, 3] are those of the pixels that it was trained on:

        x = weights.policy.normalize(images)
        h = weights.encoder.apply(weights.variables, x, train=False)

    Attributes:
      config: the section `encoder` of a config: {'name': ..., fields}.
      variables: {'params': ..., 'batch_stats': ...}, float32; without 'batch_stats' where there is no batch norm.
      image_size: height and width of the images that it was trained on.
      source: where it is from.
      policy: how images are resized and their pixels normalised; of its other fields nothing is known.
    """

    config: dict[str, Any]
    variables: dict[str, Any]
    image_size: int
    source: str
    policy: Policy = IMAGENET

    @property
    def encoder(self) -> nn.Module:
        return network.build_encoder(self.config)

    @property
    def flat(self) -> dict[str, np.ndarray]:
        """The variables by their path, 'params/conv1/kernel'."""
        return {name: np.asarray(x) for name, x in flatten_dict(self.variables, sep='/').items()}


def make(config: dict[str, Any], arrays: Mapping[str, np.ndarray], image_size: int, source: str) -> Weights:
    """An encoder from arrays by path; they must be exactly those that the config describes.

    Raises:
      UserError: some are missing, left over, of another shape, or not finite.
    """
    wanted = shapes(config, image_size)
    differ = compare({name: x.shape for name, x in arrays.items()}, wanted)
    if differ:
        raise UserError(f'{source} is no {config["name"]}: {few(differ)}')
    if bad := [name for name, x in arrays.items() if not np.isfinite(x).all()]:
        raise UserError(f'{source} holds NaN or infinity: {few(bad)}')
    flat = {name: np.ascontiguousarray(arrays[name], np.float32).reshape(wanted[name]) for name in wanted}
    return Weights(config, unflatten_dict(flat, sep='/'), image_size, source)


def shapes(config: Mapping[str, Any], image_size: int) -> dict[str, tuple[int, ...]]:
    """Path -> shape of all variables of an encoder.

    Raises:
      UserError: there is no such encoder.
    """
    try:
        module = network.build_encoder(config)
        images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), np.float32)
        variables = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f'encoder {dict(config)} cannot be made: {" ".join(str(error).split())}') from error
    return {name: x.shape for name, x in flatten_dict(variables, sep='/').items()}


def compare(held: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What differs, by name and shape."""
    differ = [f'{name} {list(wanted[name])} is missing' for name in wanted if name not in held]
    differ += [f'{name} {list(held[name])} has no place' for name in held if name not in wanted]
    return differ + [
        f'{name} is {list(held[name])} instead of {list(shape)}'
        for name, shape in wanted.items()
        if name in held and tuple(held[name]) != tuple(shape)
    ]


def few(items: list[str]) -> str:
    rest = f', and {len(items) - SHOWN} more' if len(items) > SHOWN else ''
    return ', '.join(items[:SHOWN]) + rest


def count(weights: Weights) -> int:
    """Numbers that were trained."""
    return sum(math.prod(x.shape) for name, x in weights.flat.items() if name.startswith('params/'))


# ================================ our file ================================


def save(path: Path, weights: Weights) -> None:
    """Our file: safetensors by path, with a description of the encoder."""
    about = {
        'format': FORMAT,
        'encoder': json.dumps(weights.config),
        'image_size': str(weights.image_size),
        'source': weights.source,
        'pixels': json.dumps(pixels(weights.policy)),
    }
    save_file(weights.flat, path, metadata=about)


def pixels(policy: Policy) -> dict[str, Any]:
    """The fields that tell how images reach an encoder."""
    return {field: getattr(policy, field) for field in PIXELS}


def normalisation(policy: Policy) -> str:
    """How pixels reach an encoder, in words."""
    return f'{policy.color_space} less {policy.mean} over {policy.std}'


def is_ours(source: files.Source) -> bool:
    return source.metadata.get('format') == FORMAT


def from_file(path: Path, source: files.Source) -> Weights:
    """An encoder of a file that `save` wrote.

    Raises:
      UserError: it is not what it says it is.
    """
    about = source.metadata
    try:
        config, image_size = json.loads(about['encoder']), int(about['image_size'])
        if not isinstance(config, dict) or 'name' not in config:
            raise ValueError('no encoder is described')
        policy = Policy(**{field: json.loads(about['pixels'])[field] for field in PIXELS})
        if problems := policy.problems():
            raise ValueError('; '.join(problems))
        if not 1 <= image_size <= MAX_SIZE:
            raise ValueError(f'images of {image_size} pixels')
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path} does not say what it holds: {error}') from error
    made = make(config, {name: source.array(leaf) for name, leaf in source.content.items()}, image_size, str(path))
    return dataclasses.replace(made, source=about.get('source', made.source), policy=policy)
